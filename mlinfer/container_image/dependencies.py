"""Install the locked packages for the function's platform into a folder, with uv or pip of this machine.

Both check every wheel against its hash in requirements.txt. Lambda's Python images from 3.12 on have glibc 2.34, so wheels
for that and any older version are taken. https://peps.python.org/pep-0600/
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingError, RemoteError

_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
_GLIBC = 34  # 2.34
_OLDEST = 17  # manylinux2014
_LAST_LINES = 15
_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "invalid peer certificate", "UnknownIssuer")
_NETWORK = (  # in messages of pip and uv
    *("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError", "Connection to"),
    *("No matching distribution found", "error sending request", "dns error"),
)


@dataclass(frozen=True)
class Platform:
    """What the wheels are for. python: "3.13". arch: Lambda's name."""

    python: str
    arch: str


def install(
    requirements: Path,
    target: Path,
    platform: Platform,
    *,
    tell: Callable[[str], None],
    environment: Mapping[str, str],
    trusted: Path | None,
) -> None:
    """Install hash-locked wheels into `target`. trusted: a PEM file to trust instead of the default one.

    environment: has the user's settings of pip and uv, and proxies. Raises MissingError, RemoteError.
    """
    certificates = {"PIP_CERT": str(trusted), "SSL_CERT_FILE": str(trusted)} if trusted else {}
    environment = {**environment, **certificates}
    uv = shutil.which("uv", path=environment.get("PATH"))
    if uv:
        _run(_uv(uv, requirements, target, platform), environment, tell)
        return
    with tempfile.TemporaryDirectory() as folder:
        _run(_pip(requirements, Path(folder), platform), environment, tell)
        for wheel in sorted(Path(folder).glob("*.whl")):
            unpack_wheel(wheel, target)


def unpack_wheel(wheel: Path, target: Path) -> None:
    """Unpack a wheel as pip installs it, without its scripts: https://peps.python.org/pep-0427/."""
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            folder, _, rest = name.partition("/")
            if folder.endswith(".data"):
                kind, _, rest = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
                path = target / rest
            else:
                path = target / name
            if name.endswith("/"):
                continue
            if not path.resolve().is_relative_to(target.resolve()):
                raise RemoteError("build_failed", f"{wheel.name} has an entry outside the package", reason=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open(name) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)


def _uv(uv: str, requirements: Path, target: Path, for_: Platform) -> list[str]:
    platform = f"{_MACHINES[for_.arch]}-manylinux_2_{_GLIBC}"
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-progress",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    # Its default, hard links to its cache, would let a change of a mode here change the cache.
    command += ["--link-mode", "copy", "--python", sys.executable, "--target", str(target)]
    return [*command, "--python-version", for_.python, "--python-platform", platform, "-r", str(requirements)]


def _pip(requirements: Path, folder: Path, for_: Platform) -> list[str]:
    machine = _MACHINES[for_.arch]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, _OLDEST - 1, -1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp", "--python-version", for_.python]
    command += [option for tag in [*tags, f"manylinux2014_{machine}"] for option in ("--platform", tag)]
    return [*command, "--dest", str(folder), "-r", str(requirements)]


def _run(command: Sequence[str], environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Run an installer. Raises MissingError if there is none, RemoteError with its last lines if it fails."""
    tell(f"Installing the packages with {Path(command[0]).name if command[1] != '-m' else 'pip'}")
    done = subprocess.run(  # noqa: S603
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    for line in done.stdout.splitlines():
        tell(line)
    if not done.returncode:
        return
    if "No module named pip" in done.stdout:  # as in an environment that uv made
        hint = "Install uv (https://docs.astral.sh/uv/), or pip with `python -m ensurepip`."
        raise MissingError("no_installer", "the packages need uv or pip, and this environment has neither", hint)
    lines = "".join(f"\n    {line}" for line in done.stdout.splitlines()[-_LAST_LINES:])
    hint = "Fix the error in the log above and build again."
    if any(words in done.stdout for words in _CERTIFICATE):
        hint = "Pass the certificate of your network's proxy with `mlinfer build --ca-bundle FILE`."
    elif any(words in done.stdout for words in _NETWORK):
        hint = "Check the network, and set HTTPS_PROXY if this machine needs a proxy to reach the package index."
    raise RemoteError("build_failed", "cannot install the packages", hint, reason=lines)
