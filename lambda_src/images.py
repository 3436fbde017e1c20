"""Bytes of a picture -> the model's input tensor.

The result equals `torchvision.transforms` on `PIL.Image.open(...).convert("RGB")` bit for bit, because it takes the
same steps with the same library and the same rounding: resize the shorter side (antialiased), cut the centre,
scale to 0..1, normalise. `tests/test_preprocess.py` holds it to that. The one exception is the fast decode of large
JPEGs, see `decode`.
"""

from __future__ import annotations

import importlib
import io
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import RequestError
from .metadata import Preprocess
from .settings import MAX_IMAGE_BYTES

# A picture is decoded at a reduced size only while that still is this many times the size it will be resized to.
DRAFT_MARGIN = 2
# A JPEG of a few kilobytes can ask for thousands of passes over its pixels; encoders make about ten.
# https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf
MAX_JPEG_SCANS = 32

_FORMATS = (
    ("JPEG", "JpegImagePlugin", b"\xff\xd8\xff", 0),
    ("PNG", "PngImagePlugin", b"\x89PNG\r\n\x1a\n", 0),
    ("WEBP", "WebPImagePlugin", b"WEBP", 8),
    ("GIF", "GifImagePlugin", b"GIF8", 0),
    ("AVIF", "AvifImagePlugin", b"ftyp", 4),
    ("BMP", "BmpImagePlugin", b"BM", 0),
    ("TIFF", "TiffImagePlugin", b"II*\0", 0),
    ("TIFF", "TiffImagePlugin", b"MM\0*", 0),
    ("TIFF", "TiffImagePlugin", b"II+\0", 0),
    ("TIFF", "TiffImagePlugin", b"MM\0+", 0),
)
_ORIENTATIONS = {  # EXIF 2.32, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def tensor(data: bytes, spec: Preprocess, max_pixels: int) -> NDArray[Any]:
    """Return one picture as a batch of one, [1, C, H, W] or [1, H, W, C] in the model's dtype. Raises RequestError."""
    return to_array(resize_and_crop(decode(data, max_pixels, spec.resize), spec), spec)


def decode(data: bytes, max_pixels: int, target: int = 0) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF to an upright RGB picture; of an animation, the first frame.

    With `target`, the length that the shorter side will be resized to, a JPEG that is much larger is decoded at 1/2,
    1/4 or 1/8 of its size, never below `DRAFT_MARGIN` times the target: the discrete cosine transform is inverted on
    fewer coefficients. Without it every pixel is decoded. Alpha is dropped, as torchvision's loader does.
    Raises RequestError: image_too_large, invalid_image.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise RequestError(
            413, "image_too_large", f"the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}"
        )
    name = _format_of(data)
    if name == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise RequestError(400, "invalid_image", f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of corrupt EXIF and large pictures: the answer says what matters
            return _decode(data, name, max_pixels, target)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(max_pixels) from error
    except RequestError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on hostile bytes
        raise RequestError(400, "invalid_image", f"the {name} cannot be decoded: {error}") from error


def _format_of(data: bytes) -> str:
    for name, plugin, magic, offset in _FORMATS:
        if data[offset : offset + len(magic)] == magic:
            importlib.import_module(f"PIL.{plugin}")
            return name
    kind = "is empty" if not data else "is no JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
    raise RequestError(400, "invalid_image", f"the image {kind}")


def _decode(data: bytes, name: str, max_pixels: int, target: int) -> Image.Image:
    # Pillow raises DecompressionBombError above twice this figure, from the header, before a decoder is made.
    Image.MAX_IMAGE_PIXELS = max(1, max_pixels // 2)
    image: Image.Image = Image.open(io.BytesIO(data), formats=(name,))
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(max_pixels)
    if target and name == "JPEG":
        image.draft(None, _draft_size(image.size, target))
    image.load()
    orientation = _orientation(image)  # after the load: Pillow turns a TIFF by itself, and drops its tag
    image = _to_rgb(image)
    if orientation in _ORIENTATIONS:
        image = image.transpose(_ORIENTATIONS[orientation])
    return image


def _too_many_pixels(max_pixels: int) -> RequestError:
    return RequestError(413, "image_too_large", f"the image has more than {max_pixels:,} pixels")


def _draft_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Return the least size to decode to; Pillow takes the next of 1/1, 1/2, 1/4, 1/8 that is not below it."""
    scale = DRAFT_MARGIN * target / min(size)
    return (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))) if scale < 1 else size


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block does not make the picture unreadable; browsers ignore it too
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Pillow clips 16-bit and float greys instead of scaling them, so those are scaled here."""
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _scaled_grey(image).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Map 16- and 32-bit greys to 8 bits: by the full range of 16 bits, or by the picture's own where that is larger."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), copy=False)
    top = float(values.max(initial=0.0))
    full = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)
    if image.mode == "I" and full == 1.0:  # whole numbers: a nearly black picture, not a picture of 0..1
        full = 255.0
    return Image.fromarray(np.clip(values * (255.0 / full), 0, 255).astype(np.uint8))


def resize_and_crop(image: Image.Image, spec: Preprocess) -> Image.Image:
    """Resize the shorter side and cut the centre, with torchvision's rounding (`Resize(int)`, `CenterCrop`)."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(spec.resize * long / short)
    new_size = (spec.resize, longer) if width <= height else (longer, spec.resize)
    if new_size != image.size:
        image = image.resize(new_size, Image.Resampling[spec.interpolation.upper()])
    crop_height, crop_width = spec.crop
    left, top = (_crop_start(a, b) for a, b in zip(image.size, (crop_width, crop_height), strict=True))
    return image.crop((left, top, left + crop_width, top + crop_height))  # outside the picture is black


def _crop_start(size: int, crop: int) -> int:
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def to_array(image: Image.Image, spec: Preprocess) -> NDArray[Any]:
    """Return the RGB picture as [1, C, H, W] or [1, H, W, C] in the model's channel order and dtype."""
    pixels: NDArray[np.uint8] = np.asarray(image.convert("L") if spec.color == "L" else image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if spec.color == "BGR":
        pixels = pixels[:, :, ::-1]
    if spec.dtype == "uint8":
        result: NDArray[Any] = pixels if spec.layout == "NHWC" else pixels.transpose(2, 0, 1)
    else:
        table = _normalisation(spec.mean, spec.std, spec.dtype)
        axis = 2 if spec.layout == "NHWC" else 0
        result = np.stack([table[c][pixels[:, :, c]] for c in range(pixels.shape[2])], axis=axis)
    return np.ascontiguousarray(result[None])


@lru_cache(maxsize=4)
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> NDArray[Any]:
    """Return [C, 256]: (value / 255 - mean) / std in float32 for each 8-bit value, as ToTensor and Normalize compute it."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    columns = (np.asarray(v, np.float32)[:, None] for v in (mean, std))
    return ((values - next(columns)) / next(columns)).astype(dtype)
