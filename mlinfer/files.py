"""Write files so that they are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import MissingError


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, then rename. Raises MissingError when there is no room or no permission."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise MissingError("cannot_write", f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
