"""Crop and resize give the pixels that torchvision, Hugging Face's and timm's processors give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lambda_src.errors import ModelError
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


# Each field of the pre-processing, beside what Pillow gives

LINEAR = Image.Resampling.BILINEAR


def stripes(width: int, height: int) -> Image.Image:
    """Return an image in which each pixel tells its place: red is the column, green the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    """Return an image of noise, which shows any shift."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (20, 9)])
def test_both_sides(size: tuple[int, int], interpolation: Any) -> None:
    """`[h, w]` sets both sides, in Pillow's interpolation of that name."""
    image = noise(*size)
    expected = image.resize((24, 32), Image.Resampling[interpolation.upper()])
    found = pixels(encoded(image, "PNG"), Preprocess((32, 24), None, interpolation))
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(("pad", "above"), [("floor", 5), ("ceil", 6)])
@pytest.mark.parametrize("upright", [False, True])
def test_longest(pad: Any, above: int, upright: bool) -> None:
    """`longest` fits the whole image; an odd border begins with the smaller or larger half, in the fill color."""
    image = noise(64, 42)  # becomes 32 x 21: 11 rows are filled
    border = [0, 0, 0, 0]
    border[0 if upright else 1] = above
    expected = Image.new("RGB", (32, 32), (124, 116, 104))
    resized = (image.transpose(Image.Transpose.TRANSPOSE) if upright else image).resize(
        (21, 32) if upright else (32, 21), LINEAR
    )
    expected.paste(resized, (border[0], border[1]))
    spec = Preprocess({"longest": 32}, None, pad_rounding=pad, fill=(124, 116, 104))
    data = encoded(image.transpose(Image.Transpose.TRANSPOSE) if upright else image, "PNG")
    assert np.array_equal(pixels(data, spec), np.asarray(expected))


def test_longest_then_crop() -> None:
    """With a crop, the longer side is cut and the shorter one is filled: timm's `border` mode with a crop below 1."""
    image = noise(80, 30)  # becomes 40 x 15
    expected = Image.new("RGB", (32, 32), (9, 9, 9))
    expected.paste(image.resize((40, 15), LINEAR).crop((4, 0, 36, 15)), (0, 8))
    spec = Preprocess({"longest": 40}, (32, 32), fill=(9,))
    assert np.array_equal(pixels(encoded(image, "PNG"), spec), np.asarray(expected))


@pytest.mark.parametrize(("size", "resized"), [((90, 60), (48, 32)), ((60, 90), (24, 36)), ((24, 32), (24, 32))])
def test_cover(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """`cover` keeps the aspect ratio and leaves no border, and the middle is cropped."""
    image = noise(*size)
    width, height = resized
    left, top = round((width - 24) / 2), round((height - 32) / 2)
    expected = image.resize(resized, LINEAR).crop((left, top, left + 24, top + 32))
    spec = Preprocess({"cover": [32, 24]}, (32, 24))
    assert np.array_equal(pixels(encoded(image, "PNG"), spec), np.asarray(expected))


@pytest.mark.parametrize(("rounding", "start"), [("floor", 1), ("half_even", 2)])
def test_crop_rounding(rounding: Any, start: int) -> None:
    """With 3 pixels too many, Hugging Face crops from pixel 1 and torchvision from pixel 2."""
    found = pixels(encoded(stripes(11, 8), "PNG"), Preprocess(8, (8, 8), crop_rounding=rounding))
    assert found[0, 0].tolist() == [start, 0, start]


@pytest.mark.parametrize(("pad", "before"), [("floor", 1), ("ceil", 2)])
def test_a_crop_larger_than_the_image(pad: Any, before: int) -> None:
    """A crop of 3 pixels more than the image has is filled with 1 or 2 pixels before it."""
    found = pixels(encoded(plain((255, 255, 255), (5, 5)), "PNG"), Preprocess(5, (8, 8), pad_rounding=pad, fill=(7,)))
    assert (found[:before] == 7).all()
    assert (found[before : before + 5, before : before + 5] == 255).all()
    assert (found[before + 5 :] == 7).all()


def test_fill_of_a_gray_model() -> None:
    """A model of gray images gets the same fill."""
    found = pixels(encoded(plain((255, 255, 255), (5, 5)), "PNG"), Preprocess(5, (9, 9), fill=(7,), color="L"))
    assert found[0, 0, 0] == 7
    assert found[4, 4, 0] == 255


@pytest.mark.parametrize("size", [(101, 64), (64, 101), (50, 50), (3, 1)])
@pytest.mark.parametrize("rounding", ["floor", "half_even"])
def test_crop_first(size: tuple[int, int], rounding: Any) -> None:
    """A centered square of 0.875 of the shorter side is cut before the resize, which reads no pixel outside of it."""
    image = noise(*size)
    side = max(1, int(0.875 * min(size)))
    left, top = ((n - side) // 2 if rounding == "floor" else round((n - side) / 2) for n in size)
    expected = image.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.BICUBIC)
    spec = Preprocess((16, 16), None, "bicubic", crop_first=0.875, crop_rounding=rounding)
    assert np.array_equal(pixels(encoded(image, "PNG"), spec), np.asarray(expected))


@pytest.mark.parametrize(
    "spec",
    [
        Preprocess((32, 48), None),
        Preprocess({"longest": 32}, None, fill=(7,)),
        Preprocess({"cover": [24, 32]}, (24, 32)),
        Preprocess(32, (32, 32), "lanczos", crop_rounding="floor"),
        Preprocess((32, 32), None, "bicubic", crop_first=0.8),
        Preprocess(32, (32, 32), "hamming", crop_first=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(517, 389), (389, 517), (1201, 403)])
def test_reduced_decode_of_each_form(spec: Preprocess, size: tuple[int, int]) -> None:
    """The fast decode shifts and scales nothing: the mean error is at most 2 of 255."""
    data = encoded(waves(*size, 80), "JPEG", quality=90)
    difference = np.abs(pixels(data, spec).astype(int) - whole(data, spec))
    assert decode(data, MAX_PIXELS, target=spec.target).width < size[0]
    assert difference.mean() <= 2


@pytest.mark.parametrize("interpolation", ["nearest", "box"])
def test_whole_pixels_need_the_whole_decode(interpolation: Any) -> None:
    """`nearest` and `box` take whole pixels, so a large JPEG is not decoded as averages of several pixels."""
    data = encoded(noise(600, 400), "JPEG", quality=95)
    spec = Preprocess(32, (32, 32), interpolation)
    assert np.array_equal(pixels(data, spec), whole(data, spec))


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1)])
def test_long_strips(size: tuple[int, int]) -> None:
    """Each form of resize gives its size for an image of one row or column, and uses little memory."""
    strip = Image.new("RGB", size)
    for resize in (64, (64, 64), {"longest": 64}, {"cover": [48, 64]}):
        assert resize_and_crop(strip, Preprocess(resize, (64, 64))).size == (64, 64)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"resize": 0}, "resize"),
        ({"resize": True}, "resize"),
        ({"resize": (8, 8, 8)}, "resize"),
        ({"resize": {"longest": 0}}, "resize"),
        ({"resize": {"shortest": 8}}, "resize"),
        ({"resize": {"longest": 8, "cover": [8, 8]}}, "resize"),
        ({"resize": {"cover": 8}}, "resize"),
        ({"crop": (8,)}, "crop"),
        ({"crop": None}, "crop"),
        ({"resize": {"cover": [8, 8]}, "crop": None}, "crop"),
        ({"crop_first": 0}, "crop_first"),
        ({"crop_first": 1.5}, "crop_first"),
        ({"crop_first": float("nan")}, "crop_first"),
        ({"crop_rounding": "up"}, "crop_rounding"),
        ({"pad_rounding": "half_even"}, "pad_rounding"),
        ({"fill": (0, 0)}, "fill"),
        ({"fill": (256,)}, "fill"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"color": "BGR"}, "color"),
        ({"arithmetic": ("divide",)}, "arithmetic"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong: dict[str, Any], name: str) -> None:
    """Pre-processing that the handler does not support is refused with its name when the model is read."""
    with pytest.raises(ModelError, match=f"preprocess.{name} must"):
        golden.variant(SMALL, **wrong)


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
