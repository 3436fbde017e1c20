"""The encoded bytes of a picture -> its pixels: upright, RGB, whatever the format.

The pixels are those of `PIL.Image.open(...).convert("RGB")`, except for the fast decode of large JPEGs, see `decode`.
The bytes come from strangers: `limits` judges and bounds what they make the decoder do.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError, _imaging

from ..errors import RequestError, quoted
from ..settings import MAX_IMAGE_BYTES
from .geometry import keep_geometry, turn_geometry
from .limits import bound_file, check_scans, find_pixel_limit, invalid_image, too_many_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A picture is decoded at a reduced size only while that still is this many times the size it will be resized to.
DRAFT_MARGIN = 2
# Larger EXIF blocks are not unpacked for their orientation: cameras keep to the 64 kB of a JPEG's segment.
MAX_EXIF_BYTES = 2**20
# The longest side of a JPEG. Pillow keeps a pointer for each row: a picture of one column takes three times its pixels.
MAX_SIDE = 65_535
BAND_PIXELS = 2**20

_decoding = threading.Lock()  # Pillow's limit and Python's filter of warnings are the process's, not the thread's
# Pillow imports its five commonest plug-ins at the first picture, 5 ms. Here that is JPEG's, while the model is on its
# way, and each other format's own when it comes; for a format that is unknown then Pillow still imports all.
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
    """Decode a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF to an upright RGB picture; of an animation, the first frame.

    With `target`, the length that the shorter side will be resized to, a JPEG that is much larger is decoded at 1/2,
    1/4 or 1/8 of its size, never below `DRAFT_MARGIN` times the target: the discrete cosine transform is inverted on
    fewer coefficients; `read_geometry` says what its pixels stand for. Without it every pixel is decoded. Alpha is dropped,
    as torchvision's loader does.
    Raises RequestError: image_too_large, invalid_image.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise RequestError(
            413, "image_too_large", f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}"
        )
    with _decoding:
        return _decode_alone(data, max_pixels, target)


def _decode_alone(data: bytes, max_pixels: int, target: int) -> Image.Image:
    name = _format_of(data)
    _silence_decoders()
    elsewhere = Image.MAX_IMAGE_PIXELS  # Pillow checks every crop by it, not only what is opened
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of corrupt EXIF and large pictures: the answer says what matters
            if name == "TIFF" and _holds_thumbnail(data):
                raise invalid_image(_describe_file(data, name))
            return _decode(bound_file(data, name, max_pixels), name, max_pixels=max_pixels, target=target)
    except Image.DecompressionBombError as error:
        raise too_many_pixels(max_pixels) from error
    except (RequestError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its message holds an address in memory
        raise invalid_image(_describe_file(data, name) or f"the {name}'s header is broken") from error
    except Exception as error:  # Pillow's decoders raise nearly every type on hostile bytes
        raise invalid_image(
            _describe_file(data, name) or f"the {name} cannot be decoded: {quoted(str(error))}"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = elsewhere


def _format_of(data: bytes) -> str:
    for name, plugin, magic, offset in _FORMATS:
        if data[offset : offset + len(magic)] == magic and (name != "AVIF" or _is_avif(data)):
            importlib.import_module(plugin)
            return name
    none = "is not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF" if data else "is empty"
    raise invalid_image(_describe_file(data, "") or f"the image {none}")


def _is_avif(data: bytes) -> bool:
    from .formats import is_avif  # here and below: a cold start does not wait for what few pictures need

    return is_avif(data)


def _holds_thumbnail(data: bytes) -> bool:
    from .formats import holds_thumbnail

    return holds_thumbnail(data)


def _describe_file(data: bytes, name: str) -> str:
    from .formats import describe_file

    return describe_file(data, name)


@cache
def _silence_decoders() -> None:
    """Keep off stderr what Pillow and libtiff say of broken files: the answer and the log line say it once."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    with suppress(OSError, AttributeError):  # a Pillow without libtiff, or a system that does not find it this way
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _decode(data: bytes, name: str, *, max_pixels: int, target: int) -> Image.Image:
    # Pillow raises DecompressionBombError above twice this figure, from the header, before a decoder is made.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    image: Any = Image.open(io.BytesIO(data), formats=(name,))
    if (
        name == "TIFF"
        and _tiff_tag(image, _PLANES, 1) == 2
        and _tiff_tag(image, _BITS_PER_SAMPLE, 8) > 8
        and not image.use_load_libtiff
    ):
        # Pillow reads each as 8 bits, and would decode something else.
        raise invalid_image(
            "the TIFF keeps its 16-bit colours in separate planes, uncompressed: convert it to JPEG or PNG"
        )
    width, height = image.size
    drafted = image.draft(None, _draft_size(image.size, target)) if target and name == "JPEG" else None
    limit = find_pixel_limit(image, data, pixels=width * height, max_pixels=max_pixels)
    if width * height > limit:
        raise too_many_pixels(limit, name if limit < max_pixels else "")
    if max(width, height) > MAX_SIDE:
        raise RequestError(413, "image_too_large", f"a side of the image has more than {MAX_SIDE:,} pixels")
    if name == "JPEG":
        check_scans(image, data)
    image.load()
    orientation = _orientation(image)  # after the load: Pillow turns a TIFF by itself, and drops its tag
    image = _to_rgb(image)
    if orientation in _ORIENTATIONS:
        image = image.transpose(_ORIENTATIONS[orientation])
    if drafted and drafted[1][2] != width:
        keep_geometry(image, turn_geometry(((width, height), drafted[1]), image.size, orientation))
    return image  # type: ignore[no-any-return]


def _draft_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Return the least size to decode to; Pillow takes the next of 1/1, 1/2, 1/4, 1/8 that is not below it."""
    scale = DRAFT_MARGIN * target / min(size)
    return (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))) if scale < 1 else size


def _orientation(image: Image.Image) -> int:
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not make the picture unreadable; browsers ignore it too
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Pillow clips greys that are not 8-bit whole numbers, so those are scaled here."""
    if image.mode == "RGB":
        return image
    signed = _tiff_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED
    if image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and signed):
        return _scaled_grey(image, signed)
    return image.convert("RGB")


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first number of a tag of a TIFF; the default for another format."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled_grey(image: Image.Image, signed: bool) -> Image.Image:
    """Map other greys than 8-bit whole numbers to 8 bits; what is below zero is black.

    White is the largest number of their type up to 16 bits (12-bit values come as 16-bit ones), else `_range_of`.
    """
    bits = _tiff_tag(image, _BITS_PER_SAMPLE, 16)
    dtype: Any = {8: np.int8, 16: np.int32, 32: np.int32}[bits] if signed else None
    if image.mode == "I" and not signed:
        dtype = np.uint32  # Pillow keeps the bits of unsigned numbers in signed ones
    inverted = _tiff_tag(image, _PHOTOMETRIC, 1) == 0  # Pillow inverts 8 bits only
    full = 2.0 ** (bits - signed) - 1 if bits <= 16 else _range_of(image, dtype)
    result = Image.new("RGB", image.size)
    for top, values in _bands(image, dtype):
        if image.mode.startswith("I;16"):
            grey = values >> bits - 8
        else:
            grey = np.clip(np.nan_to_num(values.astype(np.float32)) * (255.0 / full), 0, 255)
        grey = grey.astype(np.uint8)
        result.paste(Image.fromarray(255 - grey if inverted else grey), (0, top))
    return result


def _range_of(image: Image.Image, dtype: Any) -> float:
    """Return what is white: the least of 1, 255, 65535 that no pixel exceeds, else the largest pixel."""
    top = max(float(np.nan_to_num(values.astype(np.float32)).max(initial=0.0)) for _, values in _bands(image, dtype))
    if image.mode == "I" and top <= 1.0:  # whole numbers: a nearly black picture, not a picture of 0..1
        return 255.0
    return next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)


def _bands(image: Image.Image, dtype: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) of a picture of one channel: as a whole its copies would take four times its memory.

    dtype: how to read the pixels' bits, None as Pillow has them.
    """
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        yield top, values.view(dtype) if dtype else values
