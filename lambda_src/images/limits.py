"""Limit the memory and time that an untrusted image can cost, from its headers and before it is decoded.

A file of a few kilobytes can cost gigabytes or minutes. Each limit here comes from `tests/fuzz.py` or from Pillow's
source code, and `tests/lambda_src/images/test_limits.py` has an image for it. The pixels of a valid image never change:
Pillow gets the file without the parts that decoding does not need, or the file is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import RequestError

# A JPEG of a few kilobytes can need thousands of passes over its pixels. Encoders write about ten.
# https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf
MAX_JPEG_SCANS = 32
# Segments of a JPEG or runs of chunks of a PNG that decoding needs. Encoders write a few dozen.
MAX_PARTS = 1024
# Text blocks before the first frame of a GIF. Pillow keeps each as an object.
MAX_GIF_BLOCKS = 2**17
# Decoding needs at most this many bytes per pixel of the limit: 400 MB for the default of 50 million pixels. One pixel
# takes 4 bytes, and an image that is not RGB or not upright is copied once.
BYTES_PER_PIXEL = 8
# Pillow's peak bytes per pixel for formats that need more. WebP: two canvases, the image as bytes, the image, and more
# copies of the file. AVIF: 12-bit planes with alpha, before and after film grain.
_HELD_PER_PIXEL = {"WEBP": 20, "AVIF": 24, "TIFF": 10}
# An encoded image above this size reduces the budget by twice the excess. Requests are smaller, S3 objects can be larger.
FREE_BYTES = 8 * 2**20
# Pillow decodes RLE in Python, at five million pixels per second. Such files are icons.
MAX_RLE_PIXELS = 2_000_000
# Strips of a TIFF, up to one per row. Pillow creates an object for each before it reads the first.
MAX_TIFF_VALUES = 65_536
# Pixels of a TIFF strip or tile that are always accepted.
MAX_SMALL_BLOCK = 2**20


def invalid_image(message: str) -> RequestError:
    """Return the error for an image that cannot be decoded."""
    return RequestError(400, "invalid_image", message)


def too_many_pixels(limit: int, kind: str = "") -> RequestError:
    """Return the error for an image with too many pixels. kind: the format, if it has a lower limit."""
    of = f" (the limit for this kind of {kind})" if kind else ""
    return RequestError(413, "image_too_large", f"the image has more than {limit:,} pixels{of}")


def bound_file(data: bytes, name: str, max_pixels: int) -> bytes:
    """Return the file without the parts that decoding does not need. Raises RequestError for a hostile file."""
    if name == "JPEG":
        return _strip_jpeg(data)
    if name == "PNG":
        return _strip_png(data)
    if name == "TIFF":
        return _strip_tiff(data)
    if name == "GIF":
        _check_gif(data)
    if name == "AVIF":
        from .avif import hide_exif, inner_pixels  # imported here because few images need it and it slows a cold start

        if inner_pixels(data) > max_pixels:
            raise too_many_pixels(max_pixels)
        return hide_exif(data)
    return data


def find_pixel_limit(image: Any, data: bytes, *, pixels: int, max_pixels: int) -> int:
    """Return how many pixels this image may have so that decoding stays within `BYTES_PER_PIXEL`.

    image: opened, possibly reduced by `draft`. pixels: the pixel count before the reduction.
    """
    budget = BYTES_PER_PIXEL * max_pixels - 2 * max(0, len(data) - FREE_BYTES)
    held: float = _HELD_PER_PIXEL.get(image.format, BYTES_PER_PIXEL)
    if image.format in ("JPEG", "MPO"):
        reduced = image.width * image.height / max(pixels, 1)
        held = max(BYTES_PER_PIXEL * reduced, 4 * reduced + 2 * image.layers * _keeps_coefficients(image, data))
    if image.format == "TIFF":
        _check_blocks(image, pixels, budget)
    if image.format == "BMP" and any(tile.codec_name == "bmp_rle" for tile in image.tile):
        max_pixels = min(max_pixels, MAX_RLE_PIXELS)
    return max(0, min(max_pixels, int(budget / held)))


# JPEG: ITU-T T.81, annex B

# The start of a segment: an FF that is neither stuffed nor a filler nor part of a restart marker.
_MARKER = re.compile(rb"\xff+[^\x00\x01\xff\xd0-\xd7]")
_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
# Frames, tables and restart intervals. APP0 and APP14 define the color encoding.
_JPEG_SEGMENTS = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE} - {0xC8})


def _strip_jpeg(data: bytes) -> bytes:
    """Return the JPEG with only the segments that decoding needs, its first EXIF and its first XMP block.

    Pillow keeps each segment as an object and joins all EXIF blocks one by one: 200,000 blocks took a minute.
    """
    parts = [data[:2]]
    wanted = {b"Exif\0\0", b"http:/"}  # both can contain the orientation
    for marker, start, stop in jpeg_segments(data):
        if marker == _SOS:
            return b"".join((*parts, b"\xff\xda", memoryview(data)[start:]))
        kind = data[start + 2 : start + 8] if marker == _APP1 else b""
        if marker in _JPEG_SEGMENTS or kind in wanted:
            wanted.discard(kind)
            parts.append(bytes((0xFF, marker)) + data[start:stop])
        if len(parts) > MAX_PARTS:
            raise invalid_image(f"the JPEG has more than {MAX_PARTS} segments")
    raise invalid_image("the JPEG ends before its image data")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the content of each segment, up to the end of the first image."""
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
    """Refuse a JPEG that needs more passes over its pixels than encoders write. Raises RequestError."""
    # libjpeg stops after a first scan that contains the whole image, so most photos need no count. Counting bytes is
    # fast but can be too high: a video after the image may contain the same bytes by chance.
    if not _keeps_coefficients(image, data) or data.count(b"\xff\xda") <= MAX_JPEG_SCANS:
        return
    if sum(marker == _SOS for marker, _, _ in jpeg_segments(data)) > MAX_JPEG_SCANS:
        raise invalid_image(f"the JPEG has more than {MAX_JPEG_SCANS} scans")


def _keeps_coefficients(image: Any, data: bytes) -> bool:
    """Tell whether libjpeg keeps all coefficients (2 bytes each) because each scan contains only some of them."""
    first = next((start for marker, start, _ in jpeg_segments(data) if marker == _SOS), len(data))
    return "progressive" in image.info or data[first + 2 : first + 3] != bytes([image.layers])


# PNG: https://www.w3.org/TR/png-3/#5Chunk-layout; GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt

_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"))
# Text chunks that can contain the orientation: ImageMagick's, from before PNG had a chunk for it, and XMP.
_PNG_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")


def _strip_png(data: bytes) -> bytes:
    """Return the PNG with only the chunks needed for pixels and orientation: Pillow unpacks and keeps all others."""
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
            raise invalid_image(f"the PNG's image data is split into more than {MAX_PARTS} parts")
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
    raise invalid_image(f"the GIF has more than {MAX_GIF_BLOCKS:,} blocks before its first frame")


# TIFF: TIFF 6.0, section 2; BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html

# ImageWidth to Orientation, strips, T4 and T6 options, predictor, color map, tiles, samples, JPEG, YCbCr.
_TIFF_TAGS = frozenset(
    {*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339}
    | {347, *range(512, 522), *range(529, 533)}
)


def _strip_tiff(data: bytes) -> bytes:
    """Return the TIFF with a new directory of only the tags that decoding needs: Pillow unpacks every tag."""
    entries = tiff_entries(data, _TIFF_TAGS)
    if any(values > MAX_TIFF_VALUES for _, _, values, _ in entries.values()):
        raise invalid_image(f"the TIFF has more than {MAX_TIFF_VALUES:,} strips or tiles")
    order, number, counter, entry, start = tiff_forms(data)
    packed = b"".join(struct.pack(entry, *entries[tag]) for tag in sorted(entries))
    header = data[:start] + struct.pack(order + number, len(data))
    directory = struct.pack(order + counter, len(entries)) + packed + struct.pack(order + number, 0)
    return b"".join((header, memoryview(data)[len(header) :], directory))


def tiff_forms(data: bytes) -> tuple[str, str, str, str, int]:
    """Return the TIFF's byte order, the formats of an offset, a count and an entry, and where the first offset is."""
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
    except (struct.error, OverflowError) as error:  # OverflowError: a 64-bit offset
        raise invalid_image("the TIFF's directory is truncated") from error
    return entries


def _check_blocks(image: Any, pixels: int, budget: int) -> None:
    """Refuse strips or tiles too large for the image: libtiff always unpacks a whole one."""
    tags = image.tag_v2
    width, length = tags.get(322, tags[256]), tags.get(323, tags.get(278, tags[257]))
    if not isinstance(width, int) or not isinstance(length, int):
        raise invalid_image("the TIFF's tiles have no valid size")
    if 322 not in tags and 323 not in tags:
        length = min(length, tags[257])
    if width * length > max(
        MAX_SMALL_BLOCK, (budget - 4 * pixels) // 8
    ):  # a pixel of a strip or tile has up to 8 bytes
        raise RequestError(413, "image_too_large", f"a strip or tile of the TIFF has {width * length:,} pixels")
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in (t.extents for t in image.tile))
    if covered > 8 * pixels:  # each channel can be stored separately
        raise invalid_image("the TIFF's strips overlap")
