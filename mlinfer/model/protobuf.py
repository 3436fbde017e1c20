"""Read fields of a protobuf message in an open file, and skip all others by their length.

Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_TEXT = 64 * 2**20  # metadata, names and shapes need kilobytes; a damaged file must not fill the memory


class Parsed(Protocol):
    """A message of the protobuf library."""

    def MergeFromString(self, serialized: bytes, /) -> object:  # noqa: N802  # the protobuf library's name
        """Parse more fields into the message."""


@dataclass(frozen=True)
class Span:
    """A range of bytes in a file."""

    start: int
    size: int


class Message:
    """A protobuf message in an open file, which reads fields only on demand. Raises ValueError."""

    def __init__(self, file: BinaryIO, span: Span) -> None:
        self._file = file
        self.span = span

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the messages of a repeated field."""
        for found, value, _ in self._fields():
            if found == number:
                if not isinstance(value, Span):
                    raise ValueError("a field has the wrong type")
                yield Message(self._file, value)

    def number(self, number: int) -> int:
        """Return an integer field, 0 if it is missing."""
        return next((v for found, v, _ in self._fields() if found == number and isinstance(v, int)), 0)

    def has(self, number: int) -> bool:
        """Tell whether the message has the field."""
        return any(found == number for found, _, _ in self._fields())

    def text(self, number: int) -> str:
        """Return a string field, "" if it is missing."""
        for message in self.messages(number):
            if message.span.size > _MAX_TEXT:
                raise ValueError("a text field is too long")
            return message.content().decode()
        return ""

    def content(self) -> bytes:
        """Return the bytes of the message."""
        return self._read(self.span)

    def parse(self, into: Parsed, apart: int) -> Iterator[Message]:
        """Parse the fields into a message of the library, and yield those with the number `apart` instead."""
        for number, value, whole in self._fields():
            if number == apart and isinstance(value, Span):
                yield Message(self._file, value)
            else:
                into.MergeFromString(self._read(whole))

    def _read(self, span: Span) -> bytes:
        self._file.seek(span.start)
        return self._file.read(span.size)

    def _fields(self) -> Iterator[tuple[int, int | Span, Span]]:
        """Yield (field number, integer or range of the content, range of the whole field)."""
        place, end = self.span.start, self.span.start + self.span.size
        while place < end:
            start = place
            self._file.seek(start)
            key = self._varint()
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                content: int | Span = self._varint()
                place = self._file.tell()
            else:
                size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1) if wire != _BYTES else self._varint()
                content = Span(self._file.tell(), size)
                place = content.start + size
                if size < 0 or place > end:
                    raise ValueError("it is truncated or not a protobuf file")
            yield number, content, Span(start, place - start)

    def _varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._file.read(1)
            if not byte:
                raise ValueError("it is truncated")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
            shift += 7
        raise ValueError("it is not a protobuf file")


def head(number: int, size: int) -> bytes:
    """Return the bytes before the content of a field. size: of the content in bytes."""
    encoded = bytearray([number << 3 | _BYTES])
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*encoded, size])
