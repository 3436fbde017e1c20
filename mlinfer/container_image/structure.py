"""Check the content of a container image before a push: what Lambda would reject, or what would fail at the first start.

Lambda unpacks the layers itself and runs the function as user 993:990, which owns nothing in the image. So a folder without
an entry, or a file that only its owner can read, breaks the function though the Engine runs the image.
https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

from ..errors import VerificationError
from .layers import LayerReader, Member

HANDLER = "lambda_src.handler.lambda_handler"  # the command of our images

_REBUILD = "Build it again with `mlinfer build --no-cache`."
_SHOWN = 5
_FOLDER, _FILE, _PROGRAM, _LINK = "folder", "file", "program", "link"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # a lower layer's file is deleted; all of a lower layer's folder is
_MACHINES = {
    62: "x86_64",
    183: "arm64",
}  # e_machine of ELF: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html


@dataclass(frozen=True)
class LayerFacts:
    """What the check of an image needs of a layer. paths: each with its kind. orphans: folders without an entry.

    hidden: deleted from the layers below; those with a trailing slash only lose their content. defines: the names that
    the handler's module defines. machines: architecture of a shared object -> its path. own_problems: those that only
    layers of our own must not have; a base image has, for example, folders that only root can read.
    """

    diff_id: str
    bytes: int
    paths: Mapping[str, str] = field(default_factory=dict)
    orphans: Sequence[str] = ()
    hidden: Sequence[str] = ()
    problems: Sequence[str] = ()
    own_problems: Sequence[str] = ()
    machines: Mapping[str, str] = field(default_factory=dict)
    defines: Sequence[str] = ()


def read_facts(stream: IO[bytes], *, compressed: bool, handler: str = HANDLER) -> LayerFacts:
    """Read a layer to its end. handler: the image's command, MODULE.FUNCTION. Raises VerificationError if it is damaged."""
    reader, notes = LayerReader(stream, compressed=compressed), _Notes(handler)
    for member in reader.members():
        notes.add(member)
    return notes.facts(reader)


def check_structure(config: Mapping[str, Any], layers: Sequence[LayerFacts], *, own: int, arch: str) -> None:
    """Check a whole image. config: the image's configuration. layers: lowest first; the last `own` are not the base's.

    Raises VerificationError.
    """
    problems = [problem for layer in layers for problem in layer.problems]
    if [layer.diff_id for layer in layers] != list(config["rootfs"]["diff_ids"]):
        problems.append("its layers differ from those in its configuration")
    paths: dict[str, str] = {}
    for number, layer in enumerate(layers, own - len(layers)):
        _hide(paths, layer)
        if number >= 0:
            problems += layer.own_problems
            problems += [
                f"{name} has no entry, so Lambda cannot open its files"
                for name in layer.orphans
                if paths.get(name) not in (_FOLDER, _LINK)
            ]
        paths |= layer.paths
    if problems:
        raise VerificationError(
            "invalid_layer", "Lambda cannot use the container image", _REBUILD, reason=_listed(problems)
        )
    for layer in layers:
        for machine, name in layer.machines.items():
            if machine != arch:
                message = f"{name} in the container image is for {machine}, but the function uses {arch}"
                hint = f"Build it again with `mlinfer build --no-cache --arch {arch}`."
                raise VerificationError("wrong_architecture", message, hint)
    if missing := _missing(config.get("config") or {}, paths, layers):
        raise VerificationError(
            "image_incomplete", "the container image cannot start", _REBUILD, reason=_listed(missing)
        )


def _hide(paths: dict[str, str], layer: LayerFacts) -> None:
    """Remove what a layer deletes, or replaces by something that is not a folder."""
    gone = [*layer.hidden, *(f"{name}/" for name, kind in layer.paths.items() if kind != _FOLDER and name in paths)]
    if gone:
        prefixes, names = tuple(f"{name.rstrip('/')}/" for name in gone), set(gone)
        for name in [name for name in paths if name in names or name.startswith(prefixes)]:
            del paths[name]


def _missing(settings: Mapping[str, Any], paths: Mapping[str, str], layers: Sequence[LayerFacts]) -> list[str]:
    """Return what the image's settings name and its layers do not contain."""
    found = []
    start, command = settings.get("Entrypoint") or [], settings.get("Cmd") or []
    program = str(start[0]) if start else ""
    if not program:
        found.append("it has no entrypoint, so its base is not a Lambda base image")
    elif program.startswith("/") and not _is_there(program, paths, _PROGRAM):
        found.append(f"its entrypoint {program} is not a program of the container image")
    handler = str(command[0]) if command else ""
    if not _is_there(_module_path(handler), paths, _FILE, _PROGRAM):
        found.append(f"its command {handler or '(none)'} names a module that does not exist")
    elif handler.rpartition(".")[2] not in {name for layer in layers for name in layer.defines}:
        found.append(f"its command {handler} names a function that does not exist")
    environment = dict(entry.partition("=")[::2] for entry in settings.get("Env") or [])
    model = environment.get("MLINFER_MODEL_URI", "")
    if model.startswith("/") and not _is_there(model, paths, _FILE, _PROGRAM):
        found.append(f"it does not contain its model {model}")
    return found


def _is_there(path: str, paths: Mapping[str, str], *kinds: str) -> bool:
    """Tell whether a file exists. A path that leads through a link is taken to exist."""
    name = path.lstrip("/")
    through = [str(parent) for parent in PurePosixPath(name).parents]
    return paths.get(name) in (*kinds, _LINK) or any(paths.get(parent) == _LINK for parent in through)


def _module_path(handler: str) -> str:
    return f"var/task/{handler.rpartition('.')[0].replace('.', '/')}.py"


def _listed(problems: Sequence[str]) -> str:
    shown = ", ".join(problems[:_SHOWN])
    return shown if len(problems) <= _SHOWN else f"{shown}, and {len(problems) - _SHOWN} more"


class _Notes:
    """Collects the facts of one layer, entry by entry."""

    def __init__(self, handler: str) -> None:
        self._module = _module_path(handler)
        self._paths: dict[str, str] = {}
        self._orphans: dict[str, None] = {}
        self._hidden: list[str] = []
        self._problems: list[str] = []
        self._own_problems: list[str] = []
        self._machines: dict[str, str] = {}
        self._defines: list[str] = []

    def facts(self, reader: LayerReader) -> LayerFacts:
        """Return the facts of the layer, which was read to its end."""
        notes = (self._paths, list(self._orphans), self._hidden, self._problems, self._own_problems, self._machines)
        return LayerFacts(reader.diff_id, reader.bytes, *notes, self._defines)

    def add(self, member: Member) -> None:
        """Note an entry and what is wrong with it."""
        path = PurePosixPath(member.name)
        name = str(path)
        if path.is_absolute() or ".." in path.parts:
            self._problems.append(f"the entry {name} is outside the image")
            return
        if path.name.startswith(_WHITEOUT):
            self._note_whiteout(path, member)
            return
        self._note_problems(name, path, member)
        self._paths[name] = _kind(member)
        if ".so" in path.name and (machine := _machine(member.head)):
            self._machines.setdefault(machine, name)
        elif name == self._module:
            self._note_handler(name, member)

    def _note_whiteout(self, path: PurePosixPath, member: Member) -> None:
        folder = "" if str(path.parent) == "." else f"{path.parent}/"
        hidden = path.name.removeprefix(_WHITEOUT)
        if path.name == _OPAQUE:
            self._hidden.append(folder)
        elif not member.info.isreg() or member.info.size or hidden in ("", ".", ".."):
            self._own_problems.append(f"the deletion {path} is not valid")
        elif not hidden.startswith(_WHITEOUT):  # else an old Engine's own notes
            self._hidden.append(f"{folder}{hidden}")

    def _note_problems(self, name: str, path: PurePosixPath, member: Member) -> None:
        info = member.info
        for parent in map(str, path.parents):
            if parent != "." and self._paths.get(parent) != _FOLDER:
                self._orphans[parent] = None
        if info.islnk() and self._paths.get(info.linkname.removeprefix("./")) not in (_FILE, _PROGRAM):
            self._own_problems.append(
                f"{name} is a hard link to {info.linkname}, which does not precede it in the layer"
            )
        elif not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            self._own_problems.append(f"{name} is a device or pipe")
        needed = 0o005 if info.isdir() else 0o004
        if (info.isreg() or info.isdir()) and info.mode & needed != needed:
            self._own_problems.append(f"{name} has mode {info.mode & 0o7777:04o}, so Lambda's user cannot read it")

    def _note_handler(self, name: str, member: Member) -> None:
        try:
            tree = ast.parse(member.content())
        except (SyntaxError, ValueError):
            self._own_problems.append(f"{name} is not valid Python")
            return
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self._defines.append(node.name)
            elif isinstance(node, ast.Assign | ast.ImportFrom | ast.Import):
                self._defines += [found.id for found in ast.walk(node) if isinstance(found, ast.Name)]
                self._defines += [found.asname or found.name for found in getattr(node, "names", [])]


def _kind(member: Member) -> str:
    info = member.info
    if info.isdir():
        return _FOLDER
    if info.issym():
        return _LINK
    return _PROGRAM if info.mode & 0o001 else _FILE


def _machine(head: bytes) -> str:
    """Return the architecture of a shared object or program, or ""."""
    if not head.startswith(b"\x7fELF") or len(head) < 20:
        return ""
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(machine, f"ELF machine {machine}")
