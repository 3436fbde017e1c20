"""Write the layers of a container image reproducibly, and read any layer.

A layer is a tar file, compressed with gzip. The same files give the same tar file everywhere, and the same compressed file
with the same zlib: the header is written here, because Python's gzip module writes the time and the system into it.
https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ..errors import VerificationError

_REBUILD = "Build it again with `mlinfer build --no-cache`."
HEAD_BYTES = 64  # of each file: enough to recognise a shared object
_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"  # gzip, deflate, no name, no time, no level, unknown system
_BLOCK = 2**20
_WINDOW = 2**15  # the farthest back that deflate can refer to
_THREADS = 2
_CHUNK = 2**20  # a multiple of tar's block size


@dataclass(frozen=True)
class Layer:
    """A compressed layer. digest: of the compressed file; diff_id: of the tar file. size: compressed; bytes: of its files."""

    digest: str
    diff_id: str
    size: int
    bytes: int


@dataclass(frozen=True)
class Member:
    """An entry of a layer. name: without a leading "./". head: the first bytes of a file; file: the rest, to read now."""

    info: tarfile.TarInfo
    name: str
    head: bytes
    file: IO[bytes]

    def content(self) -> bytes:
        """Return the whole file."""
        return self.head + self.file.read()


@dataclass(frozen=True)
class LayerFile:
    """A file to write into a layer, or a folder if path is None. name: its path in the image."""

    name: str
    path: Path | None = None
    mode: int = 0o755


def write_layer(files: Iterable[LayerFile], target: IO[bytes], level: int) -> Layer:
    """Write a layer with owner 0:0 and time 0. files: each after its folders. level: of gzip, 1 to 9."""
    compressed, total = _GzipWriter(target, level), 0
    stream = cast("IO[bytes]", compressed)
    with compressed, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:
        for item in files:
            entry = tarfile.TarInfo(item.name)
            entry.mode = item.mode
            if item.path is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
                continue
            entry.size = item.path.stat().st_size
            total += entry.size
            with item.path.open("rb") as file:
                tar.addfile(entry, file)
    return Layer(compressed.digest, compressed.diff_id, compressed.size, total)


class _GzipWriter:
    """Compresses blocks in parallel; each refers to the end of the one before, so the result is one gzip stream.

    The blocks have a fixed size: the number of threads does not change the result.
    """

    def __init__(self, target: IO[bytes], level: int) -> None:
        self.size = 0
        self._target, self._level = target, level
        self._pool = ThreadPoolExecutor(_THREADS)  # zlib releases the interpreter's lock
        self._waiting: deque[Future[bytes]] = deque()
        self._block, self._before = bytearray(), b""
        self._crc, self._length = 0, 0
        self._compressed, self._plain = hashlib.sha256(), hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._compressed.hexdigest()}"

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._plain.hexdigest()}"

    def __enter__(self) -> _GzipWriter:
        self._emit(_HEADER)
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        with self._pool:
            if failed is None:
                self._compress(zlib.Z_FINISH)
                self._drain(0)
                self._emit(struct.pack("<II", self._crc, self._length & 0xFFFFFFFF))

    def write(self, data: bytes) -> int:
        self._plain.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        self._block += data
        while len(self._block) > _BLOCK:
            self._compress(zlib.Z_SYNC_FLUSH)
        return len(data)

    def _compress(self, flush: int) -> None:
        """Start the compression of the next block."""
        block = bytes(self._block[:_BLOCK])
        del self._block[:_BLOCK]
        self._waiting.append(self._pool.submit(_deflate, block, self._before, self._level, flush))
        self._before = block[-_WINDOW:]
        self._drain(2 * _THREADS)

    def _drain(self, most: int) -> None:
        while len(self._waiting) > most:
            self._emit(self._waiting.popleft().result())

    def _emit(self, data: bytes) -> None:
        self._compressed.update(data)
        self.size += len(data)
        self._target.write(data)


def _deflate(block: bytes, before: bytes, level: int, flush: int) -> bytes:
    settings = (level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY)
    compressor = zlib.compressobj(*settings, before) if before else zlib.compressobj(*settings)
    return compressor.compress(block) + compressor.flush(flush)


class LayerReader:
    """Reads a layer from a stream, member by member, and then its diff_id and size. Keeps nothing in memory."""

    def __init__(self, stream: IO[bytes], *, compressed: bool) -> None:
        self.diff_id = ""
        self.bytes = 0
        self._plain = _HashingReader(cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if compressed else stream)

    def members(self) -> Iterator[Member]:
        """Yield each entry. Raises VerificationError for a damaged layer, at the latest at its end."""
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", self._plain), mode="r|", bufsize=_CHUNK) as tar:
                for info in tar:
                    name = info.name.removeprefix("./")
                    file = tar.extractfile(info) if info.isreg() else None
                    self.bytes += info.size if file else 0
                    head = file.read(HEAD_BYTES) if file else b""
                    tar.members = []  # type: ignore[attr-defined]  # else it keeps each one
                    if name not in ("", "."):
                        yield Member(info, name, head, file or io.BytesIO())
                end = tar.offset
            self._plain.read_all()
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise VerificationError("invalid_layer", "a layer is damaged", _REBUILD, reason=error) from error
        if self._plain.end > end:  # tarfile takes an invalid header for the end
            raise VerificationError(
                "invalid_layer", "a layer is damaged", _REBUILD, reason="its tar file has an invalid entry"
            )
        self.diff_id = self._plain.digest


class _HashingReader:
    """Passes on what it reads. end: the position after the last byte that is not zero."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.end = 0
        self._stream = stream
        self._hash = hashlib.sha256()
        self._position = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        if used := len(data.rstrip(b"\0")):
            self.end = self._position + used
        self._position += len(data)
        return data

    def read_all(self) -> None:
        while self.read(_CHUNK):
            pass
