"""What `mlinfer build` and `mlinfer run-local` create for the tests' project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devtools.containers import Function
from mlinfer.local.address import INVOCATIONS


@dataclass(frozen=True)
class Local:
    """A project of the tests, and a free port."""

    engine: Any
    project: str
    port: int

    @property
    def url(self) -> str:
        """Return the URL that events are posted to."""
        return f"http://127.0.0.1:{self.port}{INVOCATIONS}"

    @property
    def function(self) -> Function:
        """Return the function behind the port."""
        return Function(f"http://127.0.0.1:{self.port}")

    @property
    def containers(self) -> list[Any]:
        """Return the project's containers, stopped ones too."""
        found: list[Any] = self.engine.containers.list(all=True, filters={"label": f"mlinfer.project={self.project}"})
        return found

    def inside(self, code: str) -> str:
        """Run Python code in the container as another process, and return its output."""
        (container,) = self.containers
        code_of_it, said = container.exec_run(["/var/lang/bin/python", "-c", code])
        assert code_of_it == 0, said
        text: str = said.decode()
        return text

    def layers(self, tag: str) -> list[str]:
        """Return the digests of an image's layers, the base's first."""
        found: list[str] = self.engine.images.get(tag).attrs["RootFS"]["Layers"]
        return found
