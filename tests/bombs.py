"""Files that ask more of a decoder than their size shows: headers that lie, and structures that no encoder writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from PIL import Image

from tests.pictures import encoded, gradient

# Compression of a TIFF, tag 259: https://www.awaresystems.be/imaging/tiff/tifftags/compression.html
RAW, G3, G4, LZW, JPEG, DEFLATE, PACKBITS, LZMA, ZSTD = 1, 3, 4, 5, 7, 8, 32773, 34925, 50000
RLE8, RLE4 = 1, 2  # of a BMP


def sized(data: bytes, width: int, height: int) -> bytes:
    """Return a picture whose header claims another size; each side is cut to what the field can hold."""
    for magic, offset, resize in _SIZED:
        if data[offset : offset + len(magic)] == magic:
            return resize(data, width, height)
    return data


def avif(
    pieces: list[tuple[int, int]] | None = None,
    *,
    version: int = 1,
    method: int = 0,
    sizes: tuple[int, int, int, int] = (4, 4, 4, 0),
    idat: bool = True,
) -> bytes:
    """Return a sound AVIF of one picture, 24 x 18, whose place is written otherwise (ISO/IEC 14496-12, section 8.11.3).

    pieces: (first byte, length) of each inside mdat, or inside idat for the method 1; by default one. The base
    offset is where mdat starts. sizes: bytes of an offset, a length, a base offset and an extent's index. idat: whether the box exists.
    """
    source = small("AVIF", speed=10)
    start, stop = (source.index(kind) - 4 for kind in (b"iloc", b"iinf"))
    coded = source[source.index(b"mdat") + 4 :]
    pieces = [(0, len(coded))] if pieces is None else pieces
    offset_size, length_size, base_size, index_size = sizes
    wide = 4 if version == 2 else 2

    def iloc(origin: int) -> bytes:
        body = struct.pack(">B3xBB", version, offset_size << 4 | length_size, base_size << 4 | index_size)
        body += (1).to_bytes(wide, "big") * 2 + (struct.pack(">H", method) if version else b"")
        body += struct.pack(">H", 0) + origin.to_bytes(base_size, "big") + struct.pack(">H", len(pieces))
        for first, length in pieces:
            body += bytes(index_size) + first.to_bytes(offset_size, "big")
            body += length.to_bytes(length_size, "big")
        return _box(b"iloc", body)

    children = source[44:start], source[stop : source.index(b"mdat") - 4], _box(b"idat", coded) if idat else b""
    size = len(_box(b"meta", bytes(4), *children, iloc(0)))
    origin = 0 if method else 32 + size + 8
    return source[:32] + _box(b"meta", bytes(4), *children, iloc(origin)) + _box(b"mdat", coded)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">L", 8 + len(body)) + kind + body


def tiff(
    tags: Mapping[int, tuple[int, ...] | bytes], data: bytes = b"", *, order: str = "<", big: bool = False
) -> bytes:
    """Return a TIFF of one directory: tag -> numbers, or bytes. -1 among the numbers stands for the place of `data`."""
    number, unit = ("Q", 8) if big else ("L", 4)
    head = struct.pack(f"{order}2sHHHQ", b"II" if order == "<" else b"MM", 43, 8, 0, 16) if big else b""
    head = head or struct.pack(f"{order}2sHL", b"II" if order == "<" else b"MM", 42, 8)
    position = len(head) + (8 if big else 2) + len(tags) * (4 + 2 * unit) + unit
    sizes = {tag: len(v) if isinstance(v, bytes) else unit * len(v) for tag, v in tags.items()}
    place = position + sum(size for size in sizes.values() if size > unit)
    entries, values = [], []
    for tag, value in sorted(tags.items()):
        if isinstance(value, bytes):
            kind, count, content = 7, len(value), value
        else:
            kind, count = 16 if big else 4, len(value)
            content = struct.pack(f"{order}{count}{number}", *(place if v == -1 else v for v in value))
        if len(content) > unit:
            values.append(content)
            content, position = struct.pack(f"{order}{number}", position), position + len(content)
        entries.append(struct.pack(f"{order}HH{number}", tag, kind, count) + content.ljust(unit, b"\0"))
    directory = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries)) + b"".join(entries)
    return b"".join((head, directory, struct.pack(f"{order}{number}", 0), *values, data))


def grey_tiff(width: int, height: int, compression: int, data: bytes = b"", **more: Any) -> bytes:
    """Return a grey TIFF of one strip, with `more` tags given as t322=..., of 1 bit for the fax codes and 8 otherwise."""
    bits = 1 if compression in (G3, G4) else 8
    tags: dict[int, tuple[int, ...] | bytes] = {256: (width,), 257: (height,), 258: (bits,), 259: (compression,)}
    tags |= {262: (1,), 273: (-1,), 277: (1,), 278: (height,), 279: (len(data),)}
    return _with_options(tags, data, more)


def tiled_tiff(width: int, height: int, tile_width: int, tile_height: int, **more: Any) -> bytes:
    """Return a grey TIFF whose tiles are of any size."""
    data = zlib.compress(bytes(min(tile_width * tile_height, 1000)))
    tiles = -(-width // tile_width) * -(-height // tile_height)
    tags: dict[int, tuple[int, ...] | bytes] = {256: (width,), 257: (height,), 258: (8,), 259: (DEFLATE,), 262: (1,)}
    tags |= {277: (1,), 322: (tile_width,), 323: (tile_height,), 324: (-1,) * tiles, 325: (len(data),) * tiles}
    return _with_options(tags, data, more)


def _with_options(tags: dict[int, tuple[int, ...] | bytes], data: bytes, more: Mapping[str, Any]) -> bytes:
    tags |= {int(name[1:]): value for name, value in more.items() if name.startswith("t")}
    return tiff(tags, data, **{name: value for name, value in more.items() if not name.startswith("t")})


def overlapping_tiff(side: int, strips: int) -> bytes:
    """Return an uncompressed TIFF of 1 bit that lists the same strip, nearly the whole picture, again and again."""
    rows = bytes((side + 7) // 8 * side)
    tags: dict[int, tuple[int, ...] | bytes] = {256: (side,), 257: (side,), 258: (1,), 259: (RAW,), 262: (1,)}
    return tiff(tags | {273: (-1,) * strips, 277: (1,), 278: (side - 1,), 279: (len(rows),)}, rows)


def bmp(width: int, height: int, compression: int, body: bytes) -> bytes:
    """Return a run-length coded BMP with a grey palette."""
    bits, colours = (8, 256) if compression == RLE8 else (4, 16)
    palette = b"".join(bytes((v, v, v, 0)) for v in range(colours))
    start = 14 + 40 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, colours, 0)
    return head + info + palette + body


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def many_scans(jpeg: bytes, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * (scans - 1) + jpeg[-2:]


def many_exifs(jpeg: bytes, large: int, small: int) -> bytes:
    """Return a JPEG with EXIF segments of 64 kB, then ones of a byte."""
    return (
        jpeg[:2] + segment(0xE1, b"Exif\0\0" + bytes(65000)) * large + segment(0xE1, b"Exif\0\0\0") * small + jpeg[2:]
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def with_chunks(png: bytes, chunks: bytes) -> bytes:
    """Return a PNG with more chunks after its header."""
    return png[:33] + chunks + png[33:]


def exif(entries: Iterable[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """Return an EXIF block, little endian: (tag, type, count, value or place) of each entry, then data."""
    packed = [struct.pack("<HHLL", *entry) for entry in entries]
    return struct.pack("<2sHLH", b"II", 42, 8, len(packed)) + b"".join(packed) + bytes(4) + data


def small(codec: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return a sound picture of 24 x 18 pixels."""
    image: Image.Image = gradient(24, 18)
    if mode == "P":
        image = image.quantize(16)
    elif mode in ("I", "F"):
        image = image.convert("L").convert(mode)
    elif mode == "I;16":
        image = image.convert("L").convert("I").point(lambda v: v * 257).convert("I;16")
    else:
        image = image.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(image.getchannel(0))
    return encoded(image, codec, **options)


def _resize_jpeg(data: bytes, width: int, height: int) -> bytes:
    for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
        at = data.find(marker)
        if at >= 0:
            return _put(data, at + 5, struct.pack(">HH", min(height, 0xFFFF), min(width, 0xFFFF)))
    return data


def _resize_png(data: bytes, width: int, height: int) -> bytes:
    header = struct.pack(">LL", min(width, 0xFFFFFFFF), min(height, 0xFFFFFFFF)) + data[24:29]
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def _resize_gif(data: bytes, width: int, height: int) -> bytes:
    return _put(data, 6, struct.pack("<HH", min(width, 0xFFFF), min(height, 0xFFFF)))


def _resize_bmp(data: bytes, width: int, height: int) -> bytes:
    return _put(data, 18, struct.pack("<ii", min(width, 2**31 - 1), min(height, 2**31 - 1)))


def _resize_webp(data: bytes, width: int, height: int) -> bytes:
    kind = data[12:16]
    if kind == b"VP8X":
        sides = (max(0, min(side, 2**24) - 1).to_bytes(3, "little") for side in (width, height))
        return _put(data, 24, b"".join(sides))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", data, 21)
        bits = bits >> 28 << 28 | (max(1, min(height, 2**14)) - 1) << 14 | (max(1, min(width, 2**14)) - 1)
        return _put(data, 21, struct.pack("<L", bits))
    return _put(data, 26, struct.pack("<HH", min(width, 0x3FFF), min(height, 0x3FFF)))


def _resize_avif(data: bytes, width: int, height: int) -> bytes:
    at = data.find(b"ispe")
    while at >= 0:
        data = _put(data, at + 8, struct.pack(">LL", min(width, 0xFFFFFFFF), min(height, 0xFFFFFFFF)))
        at = data.find(b"ispe", at + 1)
    return data


def _resize_tiff(data: bytes, width: int, height: int) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        if tag in (256, 257, 278):
            side = width if tag == 256 else height
            data = _put(data, at + 2, struct.pack(f"{order}HLL", 4, 1, min(side, 0xFFFFFFFF)))
    return data


def _put(data: bytes, at: int, content: bytes) -> bytes:
    return data[:at] + content + data[at + len(content) :]


_SIZED: tuple[tuple[bytes, int, Callable[[bytes, int, int], bytes]], ...] = (
    (b"\xff\xd8\xff", 0, _resize_jpeg),
    (b"\x89PNG", 0, _resize_png),
    (b"GIF8", 0, _resize_gif),
    (b"BM", 0, _resize_bmp),
    (b"WEBP", 8, _resize_webp),
    (b"ftyp", 4, _resize_avif),
    (b"II*\0", 0, _resize_tiff),
    (b"MM\0*", 0, _resize_tiff),
)
