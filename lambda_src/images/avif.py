"""Count the pixels that decoding an AVIF would allocate, over all images inside the file.

Boxes: ISO/IEC 14496-12; items: 23008-12; frames: AV1 Bitstream & Decoding Process Specification, section 5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

# Images inside: the cells of a grid, alpha, a thumbnail. Each has about six boxes.
MAX_ITEMS = 256
MAX_BOXES = 8 * MAX_ITEMS
# Byte ranges of the file that contain them. Encoders write one per image.
MAX_PIECES = 1024

_EXIF = re.compile(rb"(infe.{8,10})Exif", re.DOTALL)
# Container boxes, each with the number of bytes before its first inner box.
_CONTAINERS = {
    **dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco"), 0),
    b"meta": 4,
    b"iinf": 6,
}
_OBU_SEQUENCE_HEADER = 1


def inner_pixels(data: bytes) -> int:
    """Return how many pixels the images inside an AVIF have, by the container or by their own headers, whichever is more.

    The codec allocates by the headers. Raises ValueError if the file is damaged or has more parts than encoders write.
    """
    boxes = list(islice(_boxes(data, 0, len(data)), MAX_BOXES + 1))
    coded = frozenset(_coded_item(data, start, stop) for kind, start, stop in boxes if kind == b"infe") - {-1}
    inside = [start for kind, start, _ in boxes if kind == b"idat"]
    indexes = [(start, stop) for kind, start, stop in boxes if kind == b"iloc"]
    places = [place for start, stop in indexes for place in _places(data, start, stop, coded=coded, inside=inside)]
    places += [[sample] for sample in _first_samples(data, boxes)]
    if len(boxes) > MAX_BOXES or len(places) > MAX_ITEMS or sum(map(len, places)) > MAX_PIECES:
        raise ValueError("it contains too many images or too many parts")
    if sum(length for pieces in places if len(pieces) > 1 for _, length in pieces) > len(data):
        raise ValueError("the parts of its images overlap")
    coded_pixels = sum(_frame_pixels(_joined(data, pieces)) for pieces in places)
    return max(coded_pixels, *(_claimed_pixels(data, start, stop) for kind, start, stop in boxes if kind == b"ispe"), 0)


def hide_exif(data: bytes) -> bytes:
    """Return the file with its EXIF item renamed, so that Pillow ignores it.

    Pillow would rewrite the whole EXIF block to add the orientation, which AVIF stores elsewhere.
    """
    return _EXIF.sub(rb"\1skip", data)


def _joined(data: bytes, pieces: list[tuple[int, int]]) -> bytes | memoryview:
    parts = [memoryview(data)[start : start + length] for start, length in pieces]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _boxes(data: bytes, position: int, end: int, *, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the content of each box and of the inner boxes of containers."""
    while position + 8 <= end:
        read = _reader(data, position, end)
        size, kind, head = read(4), data[position + 4 : position + 8], 8
        if size == 1:
            read(4)
            size, head = read(8), 16
        stop = min(position + size, end) if size else end
        if 0 < size < head or depth > len(_CONTAINERS):
            raise ValueError("a box is damaged")
        yield kind, position + head, stop
        if kind in _CONTAINERS:
            head += _CONTAINERS[kind] + 2 * (kind == b"iinf" and data[position + head] > 0)
            yield from _boxes(data, position + head, stop, depth=depth + 1)
        position = stop


def _reader(data: bytes, position: int, stop: int) -> Callable[[int], int]:
    """Return a function that reads the next integer of a given size in bytes. It raises ValueError at the end."""

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > stop:
            raise ValueError("a box is truncated")
        return int.from_bytes(data[position - size : position], "big")

    return read


def _claimed_pixels(data: bytes, start: int, stop: int) -> int:
    """Return width x height of an ispe box."""
    read = _reader(data, start + 4, stop)
    return read(4) * read(4)


def _coded_item(data: bytes, start: int, stop: int) -> int:
    """Return the item number that an infe box declares, -1 if the item is not an AV1 image."""
    read = _reader(data, start, stop)
    version = read(4) >> 24
    if version < 2:
        return -1
    item, _, kind = read(2 if version == 2 else 4), read(2), read(4)
    return item if kind == int.from_bytes(b"av01", "big") else -1


def _places(
    data: bytes, start: int, stop: int, *, coded: frozenset[int], inside: list[int]
) -> Iterator[list[tuple[int, int]]]:
    """Yield the parts, each (first byte, length), of each AV1 image in an iloc box (ISO/IEC 14496-12, 8.11.3).

    inside: where the content of each idat box starts, for images stored in one. Like libavif, it refuses an image that is
    built from other items and skips an image without a length.
    """
    read = _reader(data, start, stop)
    version, sizes = read(4) >> 24, read(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    if not {offset_size, length_size, base_size, index_size} <= {0, 4, 8}:
        raise ValueError("the list of its images is damaged")
    number_size = 4 if version == 2 else 2
    for _ in range(read(number_size)):
        item, method = read(number_size), read(2) if version else 0
        _, base, count = read(2), read(base_size), read(2)
        if item not in coded or not length_size:
            read(count * (index_size + offset_size + length_size))
            continue
        if method > 1 or (method and len(inside) != 1) or count > MAX_PIECES:
            raise ValueError("an image inside has no data or too many parts")
        origin = base + (inside[0] if method else 0)
        pieces = []
        for _ in range(count):
            read(index_size)
            pieces.append((origin + read(offset_size), read(length_size)))
        if pieces:
            yield pieces


def _first_samples(data: bytes, boxes: list[tuple[bytes, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (first byte, length) of the first frame of each track of an animation."""
    tracks = "".join({b"stbl": "/", b"stco": "o", b"co64": "o", b"stsz": "s"}.get(kind, "") for kind, *_ in boxes)
    if not all(sorted(track) == ["o", "s"] for track in tracks.split("/")[1:]):
        raise ValueError("a track is damaged")
    sizes, offsets = [], []
    for kind, start, stop in boxes:
        read = _reader(data, start, stop)
        if kind == b"stsz":
            _, size, count = read(4), read(4), read(4)
            sizes.append(size or (read(4) if count else 0))
        elif kind in (b"stco", b"co64"):
            _, count = read(4), read(4)
            offsets.append(read(8 if kind == b"co64" else 4) if count else 0)
    yield from zip(offsets, sizes, strict=True)


def _frame_pixels(payload: bytes | memoryview) -> int:
    """Return the pixels of the largest frame that a sequence header in AV1 data declares, 0 without a header."""
    largest = position = 0
    while position < len(payload):
        head = payload[position]
        position += 2 if head & 4 else 1
        size = len(payload) - position
        if head & 2:
            size = shift = 0
            for byte in payload[position : position + 8]:
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            position += shift // 7
        if head >> 3 & 15 == _OBU_SEQUENCE_HEADER:
            largest = max(largest, _announced_pixels(payload[position : position + min(size, 1024)]))
        position += size
    return largest


def _announced_pixels(header: bytes | memoryview) -> int:
    """Return max_frame_width x max_frame_height of a sequence header (section 5.5.1). Raises ValueError at its end."""
    number, left = int.from_bytes(header, "big"), 8 * len(header)

    def bits(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("a sequence header is truncated")
        return number >> left & (1 << count) - 1

    bits(4)  # seq_profile, still_picture
    if bits(1):  # reduced_still_picture_header
        bits(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return (bits(width_bits) + 1) * (bits(height_bits) + 1)


def _skip_operating_points(bits: Callable[[int], int]) -> None:
    delay_bits = 0
    if bits(1):  # timing_info_present_flag
        bits(64)
        if bits(1):  # equal_picture_interval, then a variable-length number
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros if zeros < 32 else 0)
        if bits(1):  # decoder_model_info_present_flag
            delay_bits = bits(5) + 1
            bits(42)
    has_delays = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:  # seq_level_idx
            bits(1)
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)
        if has_delays and bits(1):
            bits(4)
