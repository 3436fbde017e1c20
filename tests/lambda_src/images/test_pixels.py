"""Crop and resize give the pixels that torchvision, Hugging Face's and timm's processors give."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.pixels import read_pixels
from lambda_src.images.preprocess import Preprocess
from lambda_src.settings import MAX_PIXELS

from ... import golden
from ...conftest import CAT
from ...pictures import encoded, gradient, plain, waves

SMALL = golden.SPECS["small"]


def pixels(data: bytes, spec: Preprocess) -> NDArray[np.uint8]:
    """Return the pixels that the handler makes, [H, W, C]."""
    return np.frombuffer(read_pixels(data, spec, MAX_PIXELS), np.uint8).reshape(*spec.size, spec.channels)


def whole(data: bytes, spec: Preprocess) -> NDArray[np.uint8]:
    """Return the pixels of an image that was decoded completely."""
    return np.asarray(resize_and_crop(decode(data, MAX_PIXELS), spec))


def test_grey_pixels() -> None:
    """A model of gray images gets the luminance, [H, W, 1]."""
    found = pixels(encoded(plain((255, 0, 0)), "PNG"), Preprocess(8, (8, 8), color="L"))
    assert found.shape == (8, 8, 1)
    assert (found == 76).all()  # ITU-R 601-2, 0.299 of 255


# The fast path


def test_large_jpeg_is_decoded_reduced() -> None:
    """A JPEG much larger than the target is decoded at a fraction of its size, but at least at twice the target."""
    image = decode(encoded(gradient(1200, 800), "JPEG"), MAX_PIXELS, target=80)
    assert image.size == (300, 200)


def test_jpeg_near_the_target_is_decoded_whole() -> None:
    """A smaller JPEG is decoded completely, so that the answer equals torchvision's bit for bit."""
    image = decode(encoded(gradient(300, 200), "JPEG"), MAX_PIXELS, target=80)
    assert image.size == (300, 200)
    data = encoded(gradient(300, 200), "JPEG")
    spec = golden.variant(SMALL, resize=80, crop=(80, 80))
    assert np.array_equal(pixels(data, spec), whole(data, spec))


def test_reduced_decode_looks_the_same() -> None:
    """The reduced decode is close to the full one: both average the same pixels."""
    data = CAT.read_bytes()
    assert decode(data, MAX_PIXELS, target=SMALL.target).size != decode(data, MAX_PIXELS).size
    difference = np.abs(pixels(data, SMALL).astype(int) - whole(data, SMALL))
    assert difference.mean() < 3  # of 255


@pytest.mark.parametrize(
    ("width", "height", "size"), [(517, 389, 32), (389, 517, 32), (2048, 1365, 224), (1001, 999, 60)]
)
def test_reduced_decode_does_not_shift(width: int, height: int, size: int) -> None:
    """If the sides are not divisible by the scale, nothing shifts: the mean error is at most 2 of 255."""
    data = encoded(waves(width, height, 40 if size == 32 else 120), "JPEG", quality=85)
    assert decode(data, MAX_PIXELS, target=size).size != (width, height)
    spec = Preprocess(size, (size, size))
    difference = np.abs(pixels(data, spec).astype(int) - whole(data, spec))
    assert difference.mean() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decode_does_not_shift_when_turned(orientation: int) -> None:
    """A partial pixel at the edge is handled for each EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(waves(517, 389, 40), "JPEG", quality=85, exif=exif)
    spec = Preprocess(32, (32, 32))
    difference = np.abs(pixels(data, spec).astype(int) - whole(data, spec))
    assert difference.mean() <= 2


def test_reduced_decode_keeps_the_size_of_the_original() -> None:
    """The longer side is computed from the original: 2048 x 1365 becomes 384 columns, not 383."""
    data = encoded(waves(2048, 1365, 80), "JPEG")
    spec = Preprocess(256, (256, 384))
    assert (pixels(data, spec)[:, -1] > 0).any()  # a narrower picture has a black edge


def test_reduced_decode_is_turned_upright() -> None:
    """EXIF orientation is applied on the fast path too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encoded(gradient(1200, 800), "JPEG", exif=exif), MAX_PIXELS, target=80)
    assert image.size == (200, 300)
