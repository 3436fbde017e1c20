"""Resize and center-crop an image with the rounding of torchvision's `Resize` and `CenterCrop`.

The only exception is an image hundreds of times as long as it is wide, see `MAX_RESIZED_PIXELS`.
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
    """Resize the shorter side and crop the center, with torchvision's rounding (`Resize(int)`, `CenterCrop`)."""
    size, box = read_geometry(image)
    longest = min(size) * max(MAX_RESIZED_PIXELS // spec.resize**2, 2 * (max(spec.crop) // spec.resize + 1))
    if max(size) > longest:
        size, box = _middle(size, box, longest)
    width, height = size
    short, long = min(width, height), max(width, height)
    longer = int(spec.resize * long / short)
    new_size = (spec.resize, longer) if width <= height else (longer, spec.resize)
    if new_size != image.size:
        image = image.resize(new_size, Image.Resampling[spec.interpolation.upper()], box)
    crop_height, crop_width = spec.crop
    left, top = (_crop_start(a, b) for a, b in zip(image.size, (crop_width, crop_height), strict=True))
    return image.crop((left, top, left + crop_width, top + crop_height))  # pixels outside the image are black


def _middle(size: tuple[int, int], box: Box, longest: int) -> Geometry:
    """Return the size and box of the middle of an image, with sides of at most `longest` pixels of the file."""
    width, height = (min(side, longest) for side in size)
    across, down = (
        (box[i + 2] - box[i]) / size[i] for i in (0, 1)
    )  # pixels of the decoded image per pixel of the file
    left = box[0] + (size[0] - width) // 2 * across
    top = box[1] + (size[1] - height) // 2 * down
    return (width, height), (left, top, left + width * across, top + height * down)


def _crop_start(size: int, crop: int) -> int:
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)
