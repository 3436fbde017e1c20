"""What a stranger's file may make its decoder do: judged from the headers and bounded before the decoder runs.

A file of a few kilobytes can ask for gigabytes, or for minutes. Each bound here was found by `tests/fuzz.py` or by
reading what Pillow allocates, and `tests/lambda_src/images/test_limits.py` has a picture for it. Nothing here changes the pixels of a
sound picture: what decoding does not need is left out of the file that Pillow sees, or the file is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ..errors import RequestError

# A JPEG of a few kilobytes can ask for thousands of passes over its pixels; encoders make about ten.
# https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf
MAX_JPEG_SCANS = 32
# Segments of a JPEG or stretches of a PNG that decoding needs; encoders write a few dozen.
MAX_PARTS = 1024
# Blocks of text before a GIF's picture. Pillow keeps each as an object.
MAX_GIF_BLOCKS = 2**17
# Decoding takes at most this many bytes for each pixel of the limit, 400 MB for the default of 50 million: 4 hold one
# pixel, and a picture that is not RGB or not upright is copied once.
BYTES_PER_PIXEL = 8
# What Pillow holds at its peak for one pixel where that is more. WebP: two canvases, the picture as bytes, the picture,
# and further copies of the file. AVIF: 12-bit planes with alpha, before and after film grain.
_HUNGRY = {"WEBP": 20, "AVIF": 24, "TIFF": 10}
# What an encoded picture takes beyond this, twice, is taken off. Requests are smaller, objects in S3 may be larger.
FREE_BYTES = 8 * 2**20
# Pillow decodes these in Python, five million pixels a second; they are icons.
MAX_RLE_PIXELS = 2_000_000
# Strips of a TIFF, one for each row; Pillow makes objects of them all before it looks at one.
MAX_TIFF_VALUES = 65_536
# Pictures inside an AVIF: the cells of a grid, alpha, a thumbnail. Each has about six boxes.
MAX_AVIF_ITEMS = 256
MAX_AVIF_BOXES = 8 * MAX_AVIF_ITEMS
# A strip or tile of a TIFF this large is never refused.
MAX_SMALL_BLOCK = 2**20


def broken(message: str) -> RequestError:
    """Return the error for a picture that cannot be decoded."""
    return RequestError(400, "invalid_image", message)


def too_many_pixels(limit: int, kind: str = "") -> RequestError:
    """Return the error for a picture above a limit; kind: the format that has a lower one."""
    of = f", the limit for this kind of {kind}" if kind else ""
    return RequestError(413, "image_too_large", f"the image has more than {limit:,} pixels{of}")


def bounded(data: bytes, name: str, max_pixels: int) -> bytes:
    """Return the file as Pillow may see it. Raises RequestError where only a hostile file is like that."""
    if name == "JPEG":
        return _lean_jpeg(data)
    if name == "PNG":
        return _lean_png(data)
    if name == "TIFF":
        return _lean_tiff(data)
    if name == "GIF":
        _check_gif(data)
    if name == "AVIF":
        if _av1_pixels(data) > max_pixels:
            raise too_many_pixels(max_pixels)
        # Pillow rewrites the whole EXIF block to put the orientation into it, which AVIF states elsewhere.
        return _AVIF_EXIF.sub(rb"\1skip", data)
    return data


def pixel_limit(image: Any, data: bytes, pixels: int, max_pixels: int) -> int:
    """Return how many pixels this picture may have, so that decoding keeps to `BYTES_PER_PIXEL`.

    image: opened, and by `draft` perhaps reduced; pixels: before that.
    """
    budget = BYTES_PER_PIXEL * max_pixels - 2 * max(0, len(data) - FREE_BYTES)
    held: float = _HUNGRY.get(image.format, BYTES_PER_PIXEL)
    if image.format in ("JPEG", "MPO"):
        reduced = image.width * image.height / max(pixels, 1)
        held = max(BYTES_PER_PIXEL * reduced, 4 * reduced + 2 * image.layers * _keeps_coefficients(image, data))
    if image.format == "TIFF":
        _check_blocks(image, pixels, budget)
    if image.format == "BMP" and any(tile.codec_name == "bmp_rle" for tile in image.tile):
        max_pixels = min(max_pixels, MAX_RLE_PIXELS)
    return max(0, min(max_pixels, int(budget / held)))


# JPEG: ITU-T T.81, annex B

# Where a segment starts: an FF that is not stuffed, no filler, no restart marker.
_MARKER = re.compile(rb"\xff+[^\x00\x01\xff\xd0-\xd7]")
_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
# Frames, tables and restarts; APP0 and APP14 say how colours are coded.
_JPEG_SEGMENTS = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE} - {0xC8})


def _lean_jpeg(data: bytes) -> bytes:
    """Return the JPEG with only the segments that decoding needs, its first EXIF and its first XMP block.

    Pillow keeps each segment as an object, and appends each EXIF block to all before it: 200,000 took a minute.
    """
    parts = [data[:2]]
    wanted = {b"Exif\0\0", b"http:/"}  # either may state the orientation
    for marker, start, stop in jpeg_segments(data):
        if marker == _SOS:
            return b"".join((*parts, b"\xff\xda", memoryview(data)[start:]))
        kind = data[start + 2 : start + 8] if marker == _APP1 else b""
        if marker in _JPEG_SEGMENTS or kind in wanted:
            wanted.discard(kind)
            parts.append(bytes((0xFF, marker)) + data[start:stop])
        if len(parts) > MAX_PARTS:
            raise broken(f"the JPEG has more than {MAX_PARTS} tables")
    raise broken("the JPEG ends before its picture")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the content of each segment, up to the end of the first picture."""
    position, started = 2, False
    while match := _MARKER.search(data, position):
        marker, start = match[0][-1], match.end()
        if marker == _EOI and started:
            return
        started = started or marker == _SOS
        alone = marker in (_SOI, _EOI)
        position = start if alone else start + int.from_bytes(data[start : start + 2], "big")
        yield marker, start, position


def check_scans(image: Any, data: bytes) -> None:
    """Refuse a JPEG with more passes over its pixels than encoders make. Raises RequestError."""
    # libjpeg ends after a first scan that holds the whole picture, and refuses what follows. Counting bytes is quick,
    # but most photographs need not be searched; and a film behind the picture may hold some by chance.
    if not _keeps_coefficients(image, data) or data.count(b"\xff\xda") <= MAX_JPEG_SCANS:
        return
    if sum(marker == _SOS for marker, _, _ in jpeg_segments(data)) > MAX_JPEG_SCANS:
        raise broken(f"the JPEG has more than {MAX_JPEG_SCANS} scans")


def _keeps_coefficients(image: Any, data: bytes) -> bool:
    """Tell whether libjpeg needs the whole picture's coefficients, 2 bytes each: in scans that each hold a part of them."""
    first = next((start for marker, start, _ in jpeg_segments(data) if marker == _SOS), len(data))
    return "progressive" in image.info or data[first + 2 : first + 3] != bytes([image.layers])


# PNG: https://www.w3.org/TR/png-3/#5Chunk-layout; GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt

_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"))
# Text that may state the orientation: as ImageMagick wrote it before PNG had a chunk for it, and XMP.
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")


def _lean_png(data: bytes) -> bytes:
    """Return the PNG with only the chunks that decoding and the orientation need: Pillow unpacks and keeps all others."""
    kept: list[list[int]] = [[0, 8]]
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        stop = position + 12 + length
        if kind in _PNG_CHUNKS or data.startswith(_PNG_TEXTS, position + 8, stop):
            if kept[-1][1] == position:
                kept[-1][1] = stop
            else:
                kept.append([position, stop])
        position = stop
        if len(kept) > MAX_PARTS:
            raise broken(f"the PNG's data lie in more than {MAX_PARTS} places")
    return b"".join(memoryview(data)[start:stop] for start, stop in kept)


def _check_gif(data: bytes) -> None:
    position = 13 + (3 << (data[10] & 7) + 1 if data[10:11] > b"\x7f" else 0)
    for _ in range(MAX_GIF_BLOCKS):
        kind = data[position : position + 1]
        if kind in (b"", b",", b";"):
            return
        position += 1
        if kind == b"!":
            position += 1
            for _ in range(MAX_GIF_BLOCKS):
                size = int.from_bytes(data[position : position + 1], "big")
                position += size + 1
                if not size:
                    break
            else:
                break
    raise broken(f"the GIF has more than {MAX_GIF_BLOCKS:,} blocks before its picture")


# TIFF: TIFF 6.0, section 2; BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html

# From ImageWidth to Orientation, strips, T4 and T6 options, predictor, colour map, tiles, samples, JPEG, YCbCr.
_TIFF_TAGS = frozenset(
    {*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339}
    | {347, *range(512, 522), *range(529, 533)}
)


def _lean_tiff(data: bytes) -> bytes:
    """Return the TIFF with one directory of only the tags that decoding needs, appended: Pillow unpacks all it finds."""
    entries = tiff_entries(data, _TIFF_TAGS)
    if any(values > MAX_TIFF_VALUES for _, _, values, _ in entries.values()):
        raise broken(f"the TIFF has more than {MAX_TIFF_VALUES:,} strips or tiles")
    order, number, counter, entry, start = tiff_forms(data)
    packed = b"".join(struct.pack(entry, *entries[tag]) for tag in sorted(entries))
    header = data[:start] + struct.pack(order + number, len(data))
    directory = struct.pack(order + counter, len(entries)) + packed + struct.pack(order + number, 0)
    return b"".join((header, memoryview(data)[len(header) :], directory))


def tiff_forms(data: bytes) -> tuple[str, str, str, str, int]:
    """Return how a TIFF is written: byte order, form of an offset, of a count and of an entry, place of the first offset."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return order, "Q", "Q", order + "HHQ8s", 8
    return order, "L", "H", order + "HHL4s", 4


def tiff_entries(data: bytes, wanted: frozenset[int]) -> dict[int, tuple[int, int, int, bytes]]:
    """Return the entries of the first directory: tag -> (tag, type, count, value or its offset). Raises RequestError."""
    order, number, counter, entry, start = tiff_forms(data)
    entries: dict[int, tuple[int, int, int, bytes]] = {}
    try:
        (offset,) = struct.unpack_from(order + number, data, start)
        (count,) = struct.unpack_from(order + counter, data, offset)
        first, size = offset + struct.calcsize(counter), struct.calcsize(entry)
        for position in range(first, first + min(count, MAX_TIFF_VALUES) * size, size):
            tag, kind, values, content = struct.unpack_from(entry, data, position)
            if tag in wanted:
                entries.setdefault(tag, (tag, kind, values, content))
    except (struct.error, OverflowError) as error:  # the second of an offset of 64 bits
        raise broken("the TIFF's directory is cut off") from error
    return entries


def _check_blocks(image: Any, pixels: int, budget: int) -> None:
    """Refuse blocks that do not fit the picture: libtiff unpacks a strip or tile as a whole, whatever the picture's size."""
    tags = image.tag_v2
    width, length = tags.get(322, tags[256]), tags.get(323, tags.get(278, tags[257]))
    if not isinstance(width, int) or not isinstance(length, int):
        raise broken("the TIFF's tiles have no size")
    if 322 not in tags and 323 not in tags:
        length = min(length, tags[257])
    if width * length > max(MAX_SMALL_BLOCK, (budget - 4 * pixels) // 8):  # a pixel of a block has up to 8 bytes
        raise RequestError(413, "image_too_large", f"a strip or tile of the TIFF has {width * length:,} pixels")
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in (t.extents for t in image.tile))
    if covered > 8 * pixels:  # each band may be stored by itself
        raise broken("the TIFF's strips overlap")


# AVIF. Boxes: ISO/IEC 14496-12; items: 23008-12; frames: AV1 Bitstream & Decoding Process Specification, section 5

_AVIF_EXIF = re.compile(rb"(infe.{8,10})Exif", re.DOTALL)
# Containers, each with the bytes before its first box.
_CONTAINERS = {
    **dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco"), 0),
    b"meta": 4,
    b"iinf": 6,
}
_OBU_SEQUENCE_HEADER = 1


def _av1_pixels(data: bytes) -> int:
    """Return how many pixels the pictures inside an AVIF have, by the container or, if more, by their own headers.

    The codec allocates by its own. Raises ValueError where the file is broken, or keeps its pictures in more pieces than
    any encoder does.
    """
    boxes = list(islice(_boxes(data, 0, len(data)), MAX_AVIF_BOXES + 1))
    coded = frozenset(_coded_item(data, start, stop) for kind, start, stop in boxes if kind == b"infe") - {-1}
    inside = [start for kind, start, _ in boxes if kind == b"idat"]
    indexes = [(start, stop) for kind, start, stop in boxes if kind == b"iloc"]
    places = [place for start, stop in indexes for place in _places(data, start, stop, coded, inside)]
    places += [[sample] for sample in _first_samples(data, boxes)]
    if len(boxes) > MAX_AVIF_BOXES or len(places) > MAX_AVIF_ITEMS or sum(map(len, places)) > MAX_PARTS:
        raise ValueError("too many pictures inside, or in too many pieces")
    if sum(length for pieces in places if len(pieces) > 1 for _, length in pieces) > len(data):
        raise ValueError("the pieces of its pictures overlap")
    coded_pixels = sum(_frame_pixels(_joined(data, pieces)) for pieces in places)
    return max(coded_pixels, *(_claimed_pixels(data, start, stop) for kind, start, stop in boxes if kind == b"ispe"), 0)


def _joined(data: bytes, pieces: list[tuple[int, int]]) -> bytes | memoryview:
    parts = [memoryview(data)[start : start + length] for start, length in pieces]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _boxes(data: bytes, position: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the content of each box, and of those inside it that matter."""
    while position + 8 <= end:
        read = _reader(data, position, end)
        size, kind, head = read(4), data[position + 4 : position + 8], 8
        if size == 1:
            read(4)
            size, head = read(8), 16
        stop = min(position + size, end) if size else end
        if 0 < size < head or depth > len(_CONTAINERS):
            raise ValueError("a box is broken")
        yield kind, position + head, stop
        if kind in _CONTAINERS:
            head += _CONTAINERS[kind] + 2 * (kind == b"iinf" and data[position + head] > 0)
            yield from _boxes(data, position + head, stop, depth + 1)
        position = stop


def _reader(data: bytes, position: int, stop: int) -> Callable[[int], int]:
    """Return a function that reads the next whole number of so many bytes. It raises ValueError at the end."""

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > stop:
            raise ValueError("a box is cut off")
        return int.from_bytes(data[position - size : position], "big")

    return read


def _claimed_pixels(data: bytes, start: int, stop: int) -> int:
    """Return width x height of an ispe box."""
    read = _reader(data, start + 4, stop)
    return read(4) * read(4)


def _coded_item(data: bytes, start: int, stop: int) -> int:
    """Return the number of the item that an infe box declares, -1 if it is no AV1 picture."""
    read = _reader(data, start, stop)
    version = read(4) >> 24
    if version < 2:
        return -1
    item, _, kind = read(2 if version == 2 else 4), read(2), read(4)
    return item if kind == int.from_bytes(b"av01", "big") else -1


def _places(
    data: bytes, start: int, stop: int, coded: frozenset[int], inside: list[int]
) -> Iterator[list[tuple[int, int]]]:
    """Yield the pieces, each (first byte, length), of each AV1 picture that an iloc box lists (ISO/IEC 14496-12, 8.11.3).

    inside: where the content of each idat box starts, for pictures that lie in one. As libavif does, it takes no picture
    that is put together from other items, and passes over those without a length.
    """
    read = _reader(data, start, stop)
    version, sizes = read(4) >> 24, read(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    if not {offset_size, length_size, base_size, index_size} <= {0, 4, 8}:
        raise ValueError("the places of its pictures are broken")
    number_size = 4 if version == 2 else 2
    for _ in range(read(number_size)):
        item, method = read(number_size), read(2) if version else 0
        _, base, count = read(2), read(base_size), read(2)
        if item not in coded or not length_size:
            read(count * (index_size + offset_size + length_size))
            continue
        if method > 1 or (method and len(inside) != 1) or count > MAX_PARTS:
            raise ValueError("a picture inside is in too many pieces, or in none")
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
        raise ValueError("a track is broken")
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
    """Return the pixels of the largest frame that a sequence header in AV1 data announces; 0 without one."""
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
            raise ValueError("a sequence header is cut off")
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
        if bits(1):  # equal_picture_interval, then a number in variable length code
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
