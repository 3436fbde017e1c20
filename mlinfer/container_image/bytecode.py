"""Compile modules to byte-code with the Python that will run them: the one in the base image, started without an Engine.

Byte-code differs between patch versions. So the interpreter, its loader and its libraries are taken out of the base image's
layers and run as they are; only the files that a compilation opens are kept. Where this machine cannot run them, an
interpreter of the same minor version on this machine compiles, and its version becomes part of the image's tag.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import MissingError, VerificationError
from .base_image import BaseImage, BaseImages
from .cache import Cache
from .layers import LayerReader, Member

_CHUNK = 2**20
_LIBRARIES = ("lib64", "usr/lib64", "lib", "usr/lib")
_MULTIARCH = ("x86_64-linux-gnu", "aarch64-linux-gnu")
_SEGMENT, _INTERPRETER = 56, 3  # size of a program header of 64-bit ELF, and the type of the one that names the loader
# Runs a script, and names the files that Python has opened for that.
_RUN = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
used = {sys.executable}
for module in list(sys.modules.values()):
    used |= {getattr(module, "__file__", None), getattr(module, "__cached__", None)}
with open("/proc/self/maps") as maps:
    used |= {line.split(None, 5)[5].strip() for line in maps if line.count("/")}
json.dump(sorted(filter(None, used)), open(1, "w", closefd=False))
"""


@dataclass(frozen=True)
class Interpreter:
    """The base image's Python, as paths in it. version: "3.13". home: the folder above lib/python3.13."""

    version: str
    python: str
    home: str
    loader: str
    libraries: Sequence[str]


def find_interpreter(images: BaseImages, image: BaseImage, cache: Cache) -> Interpreter:
    """Return where Python is in a base image. Raises VerificationError if there is none."""
    recorded = cache.read_record("interpreter", image.digest)
    if recorded is None:
        with _unpacked(images, image) as root:
            found = _look_for(root, image)
        cache.write_record("interpreter", image.digest, vars(found))
        return found
    return Interpreter(**recorded)


def run_in_base(images: BaseImages, image: BaseImage, cache: Cache, script: Path, folder: Path) -> None:
    """Run docker/slim.py on a folder with the Python of the base image. Raises VerificationError, MissingError."""
    key = [image.digest, hashlib.sha256(script.read_bytes()).hexdigest()]
    digest = cache.read_record("interpreter files", key)
    packed = cache.find_blob(digest) if digest else None
    if packed:
        with tempfile.TemporaryDirectory() as unpacked:
            root = Path(unpacked)
            _unpack(packed, root)
            _run(root, find_interpreter(images, image, cache), script, folder)
        return
    with _unpacked(images, image) as root:
        found = _look_for(root, image)
        cache.write_record("interpreter", image.digest, vars(found))
        used = _run(root, found, script, folder)
        cache.write_record("interpreter files", key, _pack(cache, root, used))


def find_host_python(version: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the path and the full version of a Python of this minor version on this machine. Raises MissingError."""
    path = shutil.which(f"python{version}", path=environment.get("PATH"))
    if path:
        found = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)  # noqa: S603
        if found.returncode == 0 and found.stdout.startswith(f"Python {version}."):  # a shim of pyenv can fail
            return path, found.stdout.split()[1]
    hint = f"Install it with `uv python install {version}`, or build with --no-bytecode (cold starts take longer)."
    message = f"compiling to byte-code needs python{version}, and this machine cannot run the one in the base image"
    raise MissingError("no_interpreter", message, hint)


def run_on_host(python: str, script: Path, folder: Path, *options: str) -> None:
    """Run docker/slim.py on a folder with a Python of this machine. Raises VerificationError."""
    _call([python, "-I", str(script), str(folder), *options], {})


def _run(root: Path, found: Interpreter, script: Path, folder: Path) -> list[str]:
    """Run the script with the interpreter in `root`. Return the files that it has opened there."""
    libraries = ":".join(str(root / path) for path in found.libraries if (root / path).is_dir())
    start = [str(root / found.loader), "--library-path", libraries, str(root / found.python), "-S", "-s", "-P"]
    arguments = ["-c", _RUN, str(script), str(folder)]
    used = _call([*start, *arguments], {"PYTHONHOME": str(root / found.home)})
    paths = {found.python, found.loader}
    for path in map(Path, json.loads(used.splitlines()[-1])):
        if path.is_relative_to(root) or path.is_relative_to(root.resolve()):
            real = path.resolve()
            # The loader looks for a library by the name of a link to it.
            links = [link for link in real.parent.iterdir() if ".so" in link.name and link.resolve() == real]
            paths |= {os.path.relpath(name, root) for name in (path, *(links if path.suffix != ".py" else []))}
            paths.add(_inside(root, real))
    return sorted(paths)


def _call(command: Sequence[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        hint = "Build with --no-bytecode (cold starts take longer)."
        message = "cannot run the base image's Python"
        raise MissingError("no_interpreter", message, hint, reason=error.strerror) from error
    if done.returncode:
        said = "".join(f"\n    {line}" for line in (done.stdout + done.stderr).splitlines()[-15:])
        hint = "Fix the module, or build with --no-bytecode (cold starts take longer)."
        raise VerificationError("bytecode_failed", "cannot compile the modules to byte-code", hint, reason=said)
    return done.stdout


def _look_for(root: Path, image: BaseImage) -> Interpreter:
    """Find Python as the base image's settings do. Raises VerificationError."""
    settings = dict(str(entry).partition("=")[::2] for entry in (image.config.get("config") or {}).get("Env") or [])
    for folder in settings.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":"):
        path = (root / folder.lstrip("/") / "python3").resolve()
        if path.is_file() and path.is_relative_to(root.resolve()):
            home = path.parent.parent
            versions = sorted(home.glob("lib/python3.*/os.py"))
            loader = _loader(path)
            if versions and loader:
                given = [name.lstrip("/") for name in settings.get("LD_LIBRARY_PATH", "").split(":") if name]
                places = [*given, *_LIBRARIES, *(f"{lib}/{name}" for lib in ("lib", "usr/lib") for name in _MULTIARCH)]
                return Interpreter(
                    version=versions[-1].parent.name.removeprefix("python"),
                    python=_inside(root, path),
                    home=_inside(root, home),
                    loader=_inside(root, root / loader.lstrip("/")),
                    libraries=[place for place in dict.fromkeys(places) if (root / place).is_dir()],
                )
    hint = "Set base_image in mlinfer.toml to a Lambda base image for Python 3.12 or newer."
    raise VerificationError("unsupported_base", f"the base image {image.name} contains no Python", hint)


def _inside(root: Path, path: Path) -> str:
    """Return the path of a file in `root` without links."""
    return os.path.relpath(path.resolve(), root.resolve())


def _loader(program: Path) -> str:
    """Return the loader that an ELF program names: https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.pheader.html."""
    with program.open("rb") as file:
        header = file.read(64)
        if not header.startswith(b"\x7fELF\x02\x01"):
            return ""
        start, count = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
        for number in range(count):
            file.seek(start + number * _SEGMENT)
            kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", file.read(_SEGMENT))
            if kind == _INTERPRETER:
                file.seek(offset)
                return file.read(size).rstrip(b"\0").decode()
    return ""


def _pack(cache: Cache, root: Path, used: Iterable[str]) -> str:
    """Keep some files of `root` in the cache as one tar file, and return its digest."""
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name in used:
                if (root / name).is_file():
                    entry = tar.gettarinfo(root / name, name)  # with its time, which Python's own byte-code refers to
                    entry.type, entry.linkname = tarfile.REGTYPE, ""
                    entry.size = (root / name).stat().st_size
                    with (root / name).open("rb") as file:
                        tar.addfile(entry, file)
        packed.seek(0)
        digest = f"sha256:{hashlib.file_digest(packed, 'sha256').hexdigest()}"
        packed.seek(0)
        with cache.writing() as (file, keep):
            shutil.copyfileobj(packed, file)
            keep(digest)
    return digest


def _unpack(packed: Path, root: Path) -> None:
    with tarfile.open(packed) as tar:
        for entry in tar:
            if file := tar.extractfile(entry):
                _write(root / entry.name, file, entry)


@contextmanager
def _unpacked(images: BaseImages, image: BaseImage) -> Iterator[Path]:
    """Unpack the files of a base image into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for described in image.layers:
            with images.open_layer(str(described["digest"]), keep=True) as layer:
                for member in LayerReader(layer, compressed=True).members():
                    _apply(root, member)
        yield root


def _apply(root: Path, member: Member) -> None:
    """Apply an entry of a layer to the files in `root`. Links on the way are followed inside `root` only."""
    folder, name = posixpath.split(posixpath.normpath("/" + member.name))
    parent = (root / folder.lstrip("/")).resolve()
    if not parent.is_relative_to(root.resolve()):
        raise VerificationError("unsupported_base", f"the base image has an entry outside its root: {member.name}")
    path, info = parent / name, member.info
    if name.startswith(".wh."):
        hidden = name.removeprefix(".wh.")
        if hidden in ("", ".", ".."):  # its folder, or the one above
            raise VerificationError("unsupported_base", f"the base image deletes an invalid name: {member.name}")
        for gone in list(parent.glob("*")) if name == ".wh..wh..opq" else [parent / hidden]:
            _remove(gone)
    elif info.isdir():
        if not path.is_dir():
            _remove(path)
            path.mkdir(parents=True, exist_ok=True)
    elif info.issym():
        _remove(path)
        parent.mkdir(parents=True, exist_ok=True)
        # Relative, and never above the root: what is written later through this link stays inside.
        real = "/" + os.path.relpath(parent, root.resolve())
        target = posixpath.normpath(posixpath.join(real, info.linkname)).lstrip("/")
        path.symlink_to(os.path.relpath(root.resolve() / target, parent))
    elif info.islnk():
        source = (root / info.linkname).resolve()
        if source.is_file() and source.is_relative_to(root.resolve()):
            _remove(path)
            parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path)
    elif info.isreg():
        _remove(path)
        _write(path, member.file, info, member.head)


def _write(path: Path, file: IO[bytes], info: tarfile.TarInfo, head: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        target.write(head)
        shutil.copyfileobj(file, target, _CHUNK)
    path.chmod(0o700 if info.mode & 0o100 else 0o600)
    os.utime(path, (info.mtime, info.mtime))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
