"""Pre-processing gives the same numbers as torchvision, for every kind of image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from devtools import reference
from lambda_src.errors import ModelError
from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.preprocess import Preprocess
from lambda_src.images.tensor import tensor, to_array
from lambda_src.settings import MAX_PIXELS

from ... import golden
from ...conftest import CAT
from ...pictures import encoded, gradient, plain, waves

IMAGENET = golden.SPECS["imagenet"]
SMALL = golden.SPECS["small"]


def prepared(data: bytes, spec: Preprocess) -> NDArray[Any]:
    """Return the tensor of an image that was decoded completely."""
    return to_array(resize_and_crop(decode(data, MAX_PIXELS), spec), spec)


# Equal to torchvision


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("spec", [IMAGENET, SMALL], ids=["imagenet", "small"])
def test_photographs_equal_torchvision(photos: list[Path], spec: Preprocess) -> None:
    """On every photograph, the tensor equals torchvision's ImageClassification transform bit for bit."""
    transform = reference.transform(spec)
    for photo in photos:
        expected = transform(Image.open(photo).convert("RGB")).numpy()
        assert np.array_equal(prepared(photo.read_bytes(), spec)[0], expected), photo.name


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (31, 33), (33, 31), (257, 256), (640, 97), (97, 640)])
def test_odd_sizes_equal_torchvision(size: tuple[int, int]) -> None:
    """Odd sizes, and images narrower than the crop, are rounded as in torchvision."""
    spec = Preprocess(40, (37, 52), mean=IMAGENET.mean, std=IMAGENET.std)
    transform = reference.transform(spec)
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert np.array_equal(prepared(encoded(image, "PNG"), spec)[0], transform(image).numpy())


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_interpolations_equal_torchvision(interpolation: Any) -> None:
    """Each interpolation equals the one of that name in torchvision."""
    spec = Preprocess(32, (32, 32), interpolation, IMAGENET.mean, IMAGENET.std)
    transform = reference.transform(spec)
    assert np.array_equal(prepared(encoded(gradient(), "PNG"), spec)[0], transform(gradient()).numpy())


@pytest.mark.parametrize("name", golden.PICTURES)
@pytest.mark.parametrize("spec", golden.SPECS)
def test_golden_arrays(name: str, spec: str) -> None:
    """The project's own images give the frozen arrays (golden.py)."""
    actual = prepared(golden.PICTURES[name](), golden.SPECS[spec])[0]
    assert golden.matches(name, spec, actual)


@pytest.mark.usefixtures("torchvision")
def test_golden_arrays_are_torchvisions() -> None:
    """The frozen arrays equal what torchvision gives today."""
    for spec_name, spec in golden.SPECS.items():
        transform = reference.transform(spec)
        for name, picture in golden.PICTURES.items():
            assert golden.matches(name, spec_name, transform(Image.open(io.BytesIO(picture())).convert("RGB")).numpy())


# Layouts and types


def test_layouts_and_colours() -> None:
    """NHWC and BGR are the same numbers in another order."""
    data, base = CAT.read_bytes(), prepared(CAT.read_bytes(), SMALL)
    nhwc = prepared(data, golden.variant(SMALL, layout="NHWC"))
    assert np.array_equal(nhwc.transpose(0, 3, 1, 2), base)
    bgr = prepared(data, golden.variant(SMALL, color="BGR", mean=SMALL.mean[::-1], std=SMALL.std[::-1]))
    assert np.array_equal(bgr[:, ::-1], base)


def test_grey_input() -> None:
    """A model with one channel gets the luminance, [1, 1, H, W]."""
    batch = prepared(encoded(plain((255, 255, 255)), "PNG"), Preprocess(8, (8, 8), mean=(0.5,), std=(0.5,), color="L"))
    assert batch.shape == (1, 1, 8, 8)
    assert (batch == 1.0).all()


def test_integer_and_half_input() -> None:
    """uint8 gets the raw pixel values, float16 the rounded float32 numbers."""
    data = encoded(plain((255, 128, 0)), "PNG")
    raw = prepared(data, Preprocess(8, (8, 8), dtype="uint8"))
    assert raw.dtype == np.uint8
    assert raw[0, :, 0, 0].tolist() == [255, 128, 0]
    half = prepared(data, golden.variant(SMALL, dtype="float16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, prepared(data, SMALL).astype(np.float16))


def test_batch_is_contiguous() -> None:
    """The tensor is contiguous, so that onnxruntime does not copy it."""
    for layout in ("NCHW", "NHWC"):
        for dtype in ("float32", "uint8"):
            assert prepared(CAT.read_bytes(), golden.variant(SMALL, layout=layout, dtype=dtype)).flags.c_contiguous


@pytest.mark.parametrize(
    "wrong",
    [{"resize": 0}, {"crop": (8,)}, {"mean": (0.5,)}, {"std": (1.0, 0.0, 1.0)}, {"color": "CMYK"}, {"dtype": "int64"}],
    ids=str,
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    """Invalid pre-processing is refused when the model is read."""
    with pytest.raises(ModelError):
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
    assert np.array_equal(tensor(data, spec, MAX_PIXELS), prepared(data, spec))


def test_reduced_decode_looks_the_same() -> None:
    """The reduced decode is close to the full one: both average the same pixels."""
    data = CAT.read_bytes()
    assert decode(data, MAX_PIXELS, target=SMALL.resize).size != decode(data, MAX_PIXELS).size
    difference = np.abs(tensor(data, SMALL, MAX_PIXELS) - prepared(data, SMALL))
    assert difference.mean() < 0.05  # in units of the normalised input, whose standard deviation is 1


def raw(size: int) -> Preprocess:
    """Return pre-processing that keeps the pixel values."""
    return Preprocess(size, (size, size), dtype="uint8")


@pytest.mark.parametrize(
    ("width", "height", "size"), [(517, 389, 32), (389, 517, 32), (2048, 1365, 224), (1001, 999, 60)]
)
def test_reduced_decode_does_not_shift(width: int, height: int, size: int) -> None:
    """If the sides are not divisible by the scale, nothing shifts: the mean error is at most 2 of 255."""
    data = encoded(waves(width, height, 40 if size == 32 else 120), "JPEG", quality=85)
    assert decode(data, MAX_PIXELS, target=size).size != (width, height)
    difference = np.abs(tensor(data, raw(size), MAX_PIXELS).astype(int) - prepared(data, raw(size)))
    assert difference.mean() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decode_does_not_shift_when_turned(orientation: int) -> None:
    """A partial pixel at the edge is handled for each EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(waves(517, 389, 40), "JPEG", quality=85, exif=exif)
    difference = np.abs(tensor(data, raw(32), MAX_PIXELS).astype(int) - prepared(data, raw(32)))
    assert difference.mean() <= 2


def test_reduced_decode_keeps_the_size_of_the_original() -> None:
    """The longer side is computed from the original: 2048 x 1365 becomes 384 columns, not 383."""
    data = encoded(waves(2048, 1365, 80), "JPEG")
    spec = Preprocess(256, (256, 384), dtype="uint8")
    assert (tensor(data, spec, MAX_PIXELS)[..., -1] > 0).any()  # a narrower picture has a black edge


def test_reduced_decode_is_turned_upright() -> None:
    """EXIF orientation is applied on the fast path too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encoded(gradient(1200, 800), "JPEG", exif=exif), MAX_PIXELS, target=80)
    assert image.size == (200, 300)
