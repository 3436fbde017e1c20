"""Crop, resize and pad an image to the size that a model reads, as `Preprocess` declares it.

By default, this equals torchvision's `Resize` and `CenterCrop`. The only exception is an image hundreds of times as long as
it is wide, see `MAX_RESIZED_PIXELS`.
"""

from __future__ import annotations

from PIL import Image

from .preprocess import Preprocess

# A long, narrow image that would have more pixels than this after the resize is first cropped to its middle.
MAX_RESIZED_PIXELS = 2**24

Box = tuple[float, float, float, float]  # left, top, right, bottom
# Width and height in the file, and the box that they fill in the decoded image.
Geometry = tuple[tuple[int, int], Box]
_GEOMETRY = "mlinfer.geometry"  # in Pillow's `info`, which stays with an image


def read_geometry(image: Image.Image) -> Geometry:
    """Return the width and height of a decoded image in its file, and the box that it fills in `image`.

    If `decode` did not reduce the image, these are its size and all of it. A JPEG of 2048 x 1365 that is decoded at half
    size has 1024 x 683 pixels and fills 1024 x 682.5 of them.
    """
    whole: Geometry = image.info.get(_GEOMETRY, (image.size, (0, 0, *image.size)))
    return whole


def keep_geometry(image: Image.Image, value: Geometry) -> None:
    """Store the geometry of an image that was decoded at a reduced size."""
    image.info[_GEOMETRY] = value


def turn_geometry(before: Geometry, decoded: tuple[int, int], orientation: int) -> Geometry:
    """Return the geometry of a reduced image after it is turned upright.

    decoded: width and height afterwards. The last column and row of a reduced image can stand for part of a pixel.
    """
    size, (_, _, width, height) = before
    if orientation >= 5:
        size, width, height = size[::-1], height, width
    left = decoded[0] - width if orientation in (2, 3, 6, 7) else 0
    top = decoded[1] - height if orientation in (3, 4, 7, 8) else 0
    return size, (left, top, left + width, top + height)


def resize_and_crop(image: Image.Image, spec: Preprocess) -> Image.Image:
    """Return the image at the size that the model reads."""
    size, box = read_geometry(image)
    if spec.crop_first:
        size, box = _middle(size, box, _first_crop(size, spec), spec.crop_rounding)
        if all(float(edge).is_integer() for edge in box):  # the resize would also read pixels next to the box
            left, top, right, bottom = map(int, box)
            image, box = image.crop((left, top, right, bottom)), (0, 0, right - left, bottom - top)
    if (longest := _longest_side(size, spec)) < max(size):
        size, box = _middle(size, box, tuple(min(side, longest) for side in size))
    new_size = _resized(size, spec)
    if new_size != image.size or box != (0, 0, *image.size):
        image = image.resize(new_size, Image.Resampling[spec.interpolation.upper()], box)
    return _crop_or_pad(image, spec)


def _resized(size: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    """Return width and height after the resize.

    The longer side is rounded down as in torchvision's `Resize`; `longest` and `cover` round like timm's `ResizeKeepRatio`.
    """
    width, height = size
    resize = spec.resize
    if isinstance(resize, int):
        longer = int(resize * max(size) / min(size))
        return (resize, longer) if width <= height else (longer, resize)
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    if "longest" in resize:
        ratio = max(size) / resize["longest"]
    else:
        ratio = min(height / resize["cover"][0], width / resize["cover"][1])
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _longest_side(size: tuple[int, int], spec: Preprocess) -> int:
    """Return the length of the longer side above which the middle of the image is enough."""
    if isinstance(spec.resize, tuple) or (isinstance(spec.resize, dict) and "longest" in spec.resize):
        return max(size)
    shorter = spec.resize if isinstance(spec.resize, int) else max(spec.resize["cover"])
    return min(size) * max(MAX_RESIZED_PIXELS // shorter**2, 2 * (max(spec.size) // shorter + 1))


def _first_crop(size: tuple[int, int], spec: Preprocess) -> tuple[int, int]:
    side = max(1, int((spec.crop_first or 1) * min(size)))
    return side, side


def _crop_or_pad(image: Image.Image, spec: Preprocess) -> Image.Image:
    """Cut the middle out of the image; fill what lies outside of it."""
    height, width = spec.size
    if image.size == (width, height):
        return image
    left = _start(image.width, width, spec)
    top = _start(image.height, height, spec)
    if any(spec.fill) and (image.width < width or image.height < height):
        fill = spec.fill if len(spec.fill) == 3 else spec.fill * 3
        canvas = Image.new("RGB", (width, height), fill)
        canvas.paste(image, (-left, -top))
        return canvas
    return image.crop((left, top, left + width, top + height))  # pixels outside the image are black


def _start(size: int, crop: int, spec: Preprocess) -> int:
    """Return the first pixel of a crop; negative: how many pixels come before the image."""
    if size < crop:
        return -((crop - size + (spec.pad_rounding == "ceil")) // 2)
    return _offset(size, crop, spec.crop_rounding)


def _offset(size: int, crop: int, rounding: str) -> int:
    return (size - crop) // 2 if rounding == "floor" else round((size - crop) / 2)


def _middle(size: tuple[int, int], box: Box, part: tuple[int, ...], rounding: str = "floor") -> Geometry:
    """Return size and box of the middle of an image. part: its width and height in pixels of the file."""
    width, height = part
    across, down = (
        (box[i + 2] - box[i]) / size[i] for i in (0, 1)
    )  # pixels of the decoded image per pixel of the file
    left = box[0] + _offset(size[0], width, rounding) * across
    top = box[1] + _offset(size[1], height, rounding) * down
    return (width, height), (left, top, left + width * across, top + height * down)
