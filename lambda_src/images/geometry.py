"""Resize the shorter side of a picture and cut the centre, with the rounding of torchvision's `Resize` and `CenterCrop`.

The one exception are strips hundreds of times as long as wide, see `MAX_RESIZED_PIXELS`.
"""

from __future__ import annotations

from PIL import Image

from .preprocess import Preprocess

# A strip that would be longer than this after its shorter side is resized is first cut to its middle.
MAX_RESIZED_PIXELS = 2**24

Box = tuple[float, float, float, float]  # left, top, right, bottom
# Width and height in the file, and the box that they fill in the decoded picture.
Geometry = tuple[tuple[int, int], Box]
_GEOMETRY = "mlinfer.geometry"  # in Pillow's `info`, which stays with a picture


def read_geometry(image: Image.Image) -> Geometry:
    """Return the width and height that a decoded picture has in its file, and the box that it fills in `image`.

    Unless `decode` reduced it these are the picture's own size and all of it. A JPEG of 2048 x 1365 that is decoded at
    half its size has 1024 x 683 pixels, and fills 1024 x 682.5 of them.
    """
    whole: Geometry = image.info.get(_GEOMETRY, (image.size, (0, 0, *image.size)))
    return whole


def keep_geometry(image: Image.Image, value: Geometry) -> None:
    """Note on a picture that was decoded at a reduced size what its pixels stand for."""
    image.info[_GEOMETRY] = value


def turn_geometry(before: Geometry, decoded: tuple[int, int], orientation: int) -> Geometry:
    """Return the geometry of a reduced picture after it was turned upright.

    decoded: width and height after. The last column and row of a reduced picture may stand for less than a whole pixel.
    """
    size, (_, _, width, height) = before
    if orientation >= 5:
        size, width, height = size[::-1], height, width
    left = decoded[0] - width if orientation in (2, 3, 6, 7) else 0
    top = decoded[1] - height if orientation in (3, 4, 7, 8) else 0
    return size, (left, top, left + width, top + height)


def resize_and_crop(image: Image.Image, spec: Preprocess) -> Image.Image:
    """Resize the shorter side and cut the centre, with torchvision's rounding (`Resize(int)`, `CenterCrop`)."""
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
    return image.crop((left, top, left + crop_width, top + crop_height))  # outside the picture is black


def _middle(size: tuple[int, int], box: Box, longest: int) -> Geometry:
    """Return size and box of the middle of a picture, with sides of at most `longest` pixels of its file."""
    width, height = (min(side, longest) for side in size)
    across, down = ((box[i + 2] - box[i]) / size[i] for i in (0, 1))  # pixels of `image` for one of the file
    left = box[0] + (size[0] - width) // 2 * across
    top = box[1] + (size[1] - height) // 2 * down
    return (width, height), (left, top, left + width * across, top + height * down)


def _crop_start(size: int, crop: int) -> int:
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)
