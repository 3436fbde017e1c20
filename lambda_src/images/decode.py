"""Decode an image of any supported format to upright RGB pixels.

The pixels equal `PIL.Image.open(...).convert("RGB")`, except for the fast decoding of large JPEGs, see `decode`.
The bytes are untrusted: `limits` bounds the memory and time of decoding.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import logging
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from PIL import Image, JpegImagePlugin, UnidentifiedImageError, _imaging

from ..errors import RequestError, quoted
from ..settings import MAX_IMAGE_BYTES
from .geometry import keep_geometry, turn_geometry
from .limits import bound_file, check_scans, find_pixel_limit, invalid_image, too_many_pixels

# The reduced size of a decoded image is at least this many times the size after the resize.
DRAFT_MARGIN = 2
# A larger EXIF block is not searched for the orientation. Cameras write at most 64 kB, the size of a JPEG segment.
MAX_EXIF_BYTES = 2**20
# The longest side of a JPEG. Pillow keeps a pointer per row, so an image of one column needs three times its pixels.
MAX_SIDE = 65_535
BAND_PIXELS = 2**20
FLOAT_MAX = (2 - 2**-23) * 2.0**127  # the largest float of 32 bits
_INVERTED = list(range(255, -1, -1))

_decoding = threading.Lock()  # Pillow's limit and Python's warning filter are global
# By default, Pillow imports five plug-ins with the first image, which takes 5 ms. Here, JPEG's is imported while the
# model downloads, and each other one with the first image of its format.
Image._initialized = max(1, Image._initialized)

_FORMATS = (
    ("JPEG", JpegImagePlugin.__name__, b"\xff\xd8\xff", 0),
    ("PNG", "PIL.PngImagePlugin", b"\x89PNG\r\n\x1a\n", 0),
    ("WEBP", "PIL.WebPImagePlugin", b"WEBP", 8),
    ("GIF", "PIL.GifImagePlugin", b"GIF8", 0),
    ("AVIF", "PIL.AvifImagePlugin", b"ftyp", 4),
    ("BMP", "PIL.BmpImagePlugin", b"BM", 0),
    ("TIFF", "PIL.TiffImagePlugin", b"II*\0", 0),
    ("TIFF", "PIL.TiffImagePlugin", b"MM\0*", 0),
    ("TIFF", "PIL.TiffImagePlugin", b"II+\0", 0),
    ("TIFF", "PIL.TiffImagePlugin", b"MM\0+", 0),
)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT, _SIGNED = 258, 262, 284, 339, 2  # TIFF 6.0
_ORIENTATIONS = {  # EXIF 2.32, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, max_pixels: int, target: int = 0) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF to an upright RGB image. Decode the first frame of an animation.

    target: length of the shorter side after the later resize. A much larger JPEG is decoded at 1/2, 1/4 or 1/8 of its
    size, but at `DRAFT_MARGIN` times the target or more; `read_geometry` returns what its pixels stand for. 0 decodes
    every pixel. Alpha is dropped, as in torchvision's loader.
    Raises RequestError: image_too_large, invalid_image.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise RequestError(413, "image_too_large", f"the image has {len(data):,} bytes (limit {MAX_IMAGE_BYTES:,})")
    with _decoding:
        return _decode_alone(data, max_pixels, target)


def _decode_alone(data: bytes, max_pixels: int, target: int) -> Image.Image:
    name = _format_of(data)
    _silence_decoders()
    elsewhere = Image.MAX_IMAGE_PIXELS  # Pillow also applies it to every crop
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about corrupt EXIF and large images
            if name == "TIFF" and _holds_thumbnail(data):
                raise invalid_image(_describe_file(data, name))
            return _decode(bound_file(data, name, max_pixels), name, max_pixels=max_pixels, target=target)
    except Image.DecompressionBombError as error:
        raise too_many_pixels(max_pixels) from error
    except (RequestError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its message contains a memory address
        raise invalid_image(_describe_file(data, name) or f"the header of the {name} is damaged") from error
    except Exception as error:  # Pillow's decoders raise almost any exception for hostile bytes
        raise invalid_image(_describe_file(data, name) or f"cannot decode the {name}: {quoted(str(error))}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = elsewhere


def _format_of(data: bytes) -> str:
    for name, plugin, magic, offset in _FORMATS:
        if data[offset : offset + len(magic)] == magic and (name != "AVIF" or _is_avif(data)):
            importlib.import_module(plugin)
            return name
    reason = (
        "the image format is not supported (expected JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF)"
        if data
        else "the image is empty"
    )
    raise invalid_image(_describe_file(data, "") or reason)


def _is_avif(data: bytes) -> bool:
    from .formats import is_avif  # imported here and below because few images need it and it slows a cold start

    return is_avif(data)


def _holds_thumbnail(data: bytes) -> bool:
    from .formats import holds_thumbnail

    return holds_thumbnail(data)


def _describe_file(data: bytes, name: str) -> str:
    from .formats import describe_file

    return describe_file(data, name)


@cache
def _silence_decoders() -> None:
    """Suppress what Pillow and libtiff print about damaged files: the answer and the log line contain it."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    with suppress(OSError, AttributeError):  # Pillow has no libtiff, or this system does not find it this way
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _decode(data: bytes, name: str, *, max_pixels: int, target: int) -> Image.Image:
    # From the header, before decoding, Pillow raises DecompressionBombError above twice this number.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    image: Any = Image.open(io.BytesIO(data), formats=(name,))
    if (
        name == "TIFF"
        and _tiff_tag(image, _PLANES, 1) == 2
        and _tiff_tag(image, _BITS_PER_SAMPLE, 8) > 8
        and not image.use_load_libtiff
    ):
        # Pillow reads each sample as 8 bits, so the pixels would be wrong.
        raise invalid_image(
            "the TIFF has uncompressed 16-bit colors in separate planes, which is not supported: convert it to JPEG or PNG"
        )
    width, height = image.size
    drafted = image.draft(None, _draft_size(image.size, target)) if target and name == "JPEG" else None
    limit = find_pixel_limit(image, data, pixels=width * height, max_pixels=max_pixels)
    if width * height > limit:
        raise too_many_pixels(limit, name if limit < max_pixels else "")
    if max(width, height) > MAX_SIDE:
        raise RequestError(413, "image_too_large", f"one side of the image has more than {MAX_SIDE:,} pixels")
    if name == "JPEG":
        check_scans(image, data)
    image.load()
    orientation = _orientation(image)  # after load(): Pillow rotates a TIFF itself and drops its tag
    image = _to_rgb(image)
    if orientation in _ORIENTATIONS:
        image = image.transpose(_ORIENTATIONS[orientation])
    if drafted and drafted[1][2] != width:
        keep_geometry(image, turn_geometry(((width, height), drafted[1]), image.size, orientation))
    return image  # type: ignore[no-any-return]


def _draft_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Return the smallest size to decode to. Pillow uses the next larger of 1/1, 1/2, 1/4 and 1/8."""
    scale = DRAFT_MARGIN * target / min(size)
    return (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))) if scale < 1 else size


def _orientation(image: Image.Image) -> int:
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # an image with a damaged EXIF block is still readable; browsers ignore it too
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Grays that are not 8-bit integers are scaled here, because Pillow clips them."""
    if image.mode == "RGB":
        return image
    signed = _tiff_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED
    if image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and signed):
        return _scaled_grey(image, signed)
    return image.convert("RGB")


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first number of a TIFF tag, or the default for another format."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled_grey(image: Image.Image, signed: bool) -> Image.Image:
    """Scale grays that are not 8-bit integers to 8 bits, rounding down. Values below zero and NaN become black.

    12-bit values arrive as 16 bits.
    """
    bits = _tiff_tag(image, _BITS_PER_SAMPLE, 16)
    inverted = _tiff_tag(image, _PHOTOMETRIC, 1) == 0  # Pillow inverts only 8-bit images
    sixteen = image.mode.startswith("I;16")
    scale = 1.0 if sixteen else _float32(255.0 / _white(image, bits, signed))
    largest = int(min(255.0, _float32(FLOAT_MAX * scale)))  # what infinity becomes, as in numpy.nan_to_num
    levels = [min(level, largest) for level in range(256)]
    result = Image.new("RGB", image.size)
    for top, band in _bands(image):
        if sixteen:
            grey = _high_bits(band, bits - 8)
        else:
            grey = _floats(band, signed).point(lambda value: value * scale).convert("L").point(levels)
        result.paste(grey.point(_INVERTED) if inverted else grey, (0, top))
    return result


def _white(image: Image.Image, bits: int, signed: bool) -> float:
    """Return the value of white: the largest number of a type of up to 16 bits.

    Otherwise return the smallest of 1, 255 and 65535 that no pixel exceeds, or the largest pixel.
    """
    if bits <= 16:
        return 2.0 ** (bits - signed) - 1
    top = 0.0
    for _, band in _bands(image):
        highest: Any = _floats(band, signed).getextrema()[1]
        top = max(top, min(highest, FLOAT_MAX))
    if image.mode == "I" and top <= 1.0:  # integers: an almost black image, not an image with values in 0..1
        return 255.0
    return next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (first row, rows) of an image, because copies of the whole would take four times its memory."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _high_bits(band: Image.Image, shift: int) -> Image.Image:
    """Return eight bits of each 16-bit pixel, those from `shift` on."""
    order: Any = "big" if band.mode == "I;16B" else "little"
    data = band.tobytes()
    if shift != 8:  # shift all pixels at once, so that these bits become the upper byte of each
        moved = int.from_bytes(data, order) << 8 - shift
        data = (moved % (1 << 8 * len(data))).to_bytes(len(data), order)
    return Image.frombytes("L", band.size, data[order == "little" :: 2])


def _floats(band: Image.Image, signed: bool) -> Image.Image:
    """Return a band of 32-bit integers, signed bytes or floats as floats."""
    if band.mode != "F":
        # Pillow stores unsigned numbers in a signed type, and the reverse for bytes.
        form = "F;8S" if band.mode == "L" else f"F;32N{'S' * signed}"
        return Image.frombytes("F", band.size, band.tobytes(), "raw", form)
    if math.isnan(band.getpixel((0, 0))):  # type: ignore[arg-type]
        band.putpixel((0, 0), 0.0)  # getextrema would keep it
    return band


def _float32(value: float) -> float:
    """Round to a float of 32 bits."""
    return struct.unpack("f", struct.pack("f", value))[0]  # type: ignore[no-any-return]
