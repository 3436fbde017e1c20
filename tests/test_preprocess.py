"""Pre-processing: the same numbers as torchvision, for every kind of picture that users send."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lambda_src.errors import ModelError, RequestError
from lambda_src.images import decode, resize_and_crop, tensor, to_array
from lambda_src.metadata import Preprocess
from lambda_src.settings import MAX_PIXELS

from . import golden, reference
from .conftest import CAT
from .pictures import encoded, gradient, plain, waves

IMAGENET = golden.SPECS["imagenet"]
SMALL = golden.SPECS["small"]


def prepared(data: bytes, spec: Preprocess) -> NDArray[Any]:
    """Return the tensor of a picture whose every pixel was decoded."""
    return to_array(resize_and_crop(decode(data, MAX_PIXELS), spec), spec)


# Equal to torchvision


@pytest.mark.parametrize("spec", [IMAGENET, SMALL], ids=["imagenet", "small"])
def test_photographs_equal_torchvision(photos: list[Path], spec: Preprocess) -> None:
    """On every photograph the tensor is bit for bit that of torchvision's ImageClassification transform."""
    transform = reference.transform(spec)
    for photo in photos:
        expected = transform(Image.open(photo).convert("RGB")).numpy()
        assert np.array_equal(prepared(photo.read_bytes(), spec)[0], expected), photo.name


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (31, 33), (33, 31), (257, 256), (640, 97), (97, 640)])
def test_odd_sizes_equal_torchvision(size: tuple[int, int]) -> None:
    """Rounding at odd sizes, and pictures narrower than the crop, are torchvision's to the bit."""
    spec = Preprocess(40, (37, 52), mean=IMAGENET.mean, std=IMAGENET.std)
    transform = reference.transform(spec)
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert np.array_equal(prepared(encoded(image, "PNG"), spec)[0], transform(image).numpy())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_interpolations_equal_torchvision(interpolation: Any) -> None:
    """Each interpolation that a model can name is the one of that name in torchvision."""
    spec = Preprocess(32, (32, 32), interpolation, IMAGENET.mean, IMAGENET.std)
    transform = reference.transform(spec)
    assert np.array_equal(prepared(encoded(gradient(), "PNG"), spec)[0], transform(gradient()).numpy())


@pytest.mark.parametrize("name", golden.PICTURES)
@pytest.mark.parametrize("spec", golden.SPECS)
def test_golden_arrays(name: str, spec: str) -> None:
    """The project's own pictures give the arrays that torchvision gave when they were frozen (golden.py)."""
    actual = prepared(golden.PICTURES[name](), golden.SPECS[spec])[0]
    assert golden.matches(name, spec, actual)


def test_golden_arrays_are_torchvisions() -> None:
    """The frozen arrays are what torchvision gives today."""
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
    """A model of one channel gets the luminance, [1, 1, H, W]."""
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
    """The tensor lies in memory as onnxruntime wants it, so that it is not copied again."""
    for layout in ("NCHW", "NHWC"):
        for dtype in ("float32", "uint8"):
            assert prepared(CAT.read_bytes(), golden.variant(SMALL, layout=layout, dtype=dtype)).flags.c_contiguous


@pytest.mark.parametrize(
    "wrong",
    [{"resize": 0}, {"crop": (8,)}, {"mean": (0.5,)}, {"std": (1.0, 0.0, 1.0)}, {"color": "CMYK"}, {"dtype": "int64"}],
    ids=str,
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    """A model whose pre-processing makes no sense is refused when it is read."""
    with pytest.raises(ModelError):
        golden.variant(SMALL, **wrong)


# Kinds of pictures

RED = (255, 0, 0)
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive jpeg": ("JPEG", {"quality": 95, "progressive": True}),
    "png": ("PNG", {}),
    "lossy webp": ("WEBP", {"quality": 95}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {"quality": 95}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    """Each supported format is decoded to the picture that was encoded."""
    codec, options = FORMATS[kind]
    assert_close(decode(encoded(plain(RED), codec, **options), MAX_PIXELS), RED)


def _alpha() -> Image.Image:
    image = plain(RED).convert("RGBA")
    image.putalpha(128)
    return image


def _palette_with_transparency() -> bytes:
    image = plain(RED).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    return encoded(image, "PNG", transparency=0)


def _wide_grey(dtype: type[np.generic], value: float, codec: str) -> bytes:
    return encoded(Image.fromarray(np.full((16, 20), value, dtype)), codec)


def _animation(codec: str) -> bytes:
    return encoded(plain(RED), codec, save_all=True, append_images=[plain((0, 0, 255))], duration=100)


MODES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "grey": (lambda: encoded(plain((90, 90, 90)).convert("L"), "JPEG"), (90, 90, 90)),
    "grey with alpha": (lambda: encoded(plain((90, 90, 90)).convert("LA"), "PNG"), (90, 90, 90)),
    "black and white": (lambda: encoded(Image.new("1", (20, 16), 1), "PNG"), (255, 255, 255)),
    "palette": (lambda: encoded(plain(RED).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), RED),
    "palette with transparency": (_palette_with_transparency, RED),
    "cmyk jpeg": (lambda: encoded(plain(RED).convert("CMYK"), "JPEG", quality=95), RED),
    "cmyk tiff": (lambda: encoded(plain(RED).convert("CMYK"), "TIFF"), RED),
    "alpha png": (lambda: encoded(_alpha(), "PNG"), RED),
    "alpha webp": (lambda: encoded(_alpha(), "WEBP", lossless=True, exact=True), RED),
    "16-bit png": (lambda: _wide_grey(np.uint16, 200 * 257, "PNG"), (200, 200, 200)),
    "16-bit tiff": (lambda: _wide_grey(np.uint16, 200 * 257, "TIFF"), (200, 200, 200)),
    "32-bit tiff": (lambda: _wide_grey(np.int32, 200, "TIFF"), (200, 200, 200)),
    "float tiff of 0..1": (lambda: _wide_grey(np.float32, 200 / 255, "TIFF"), (200, 200, 200)),
    "float tiff of 0..255": (lambda: _wide_grey(np.float32, 200, "TIFF"), (200, 200, 200)),
    "float tiff of nan": (lambda: _wide_grey(np.float32, float("nan"), "TIFF"), (0, 0, 0)),
    "animated gif": (lambda: _animation("GIF"), RED),
    "animated png": (lambda: _animation("PNG"), RED),
    "animated webp": (lambda: _animation("WEBP"), RED),
    "animated avif": (lambda: _animation("AVIF"), RED),
    "tiff of two pages": (lambda: _animation("TIFF"), RED),
}


@pytest.mark.parametrize("kind", MODES)
def test_modes(kind: str) -> None:
    """Grey, palette, CMYK, 16-bit, alpha and animated pictures give their colours, of the first frame."""
    make, expected = MODES[kind]
    assert_close(decode(make(), MAX_PIXELS), expected)


def assert_close(image: Image.Image, colour: tuple[int, int, int]) -> None:
    """Check that a decoded picture is 20 x 16, RGB and of one colour but for the coding's loss."""
    assert (image.mode, image.size) == ("RGB", (20, 16))
    assert np.abs(np.asarray(image, np.int16) - np.asarray(colour, np.int16)).max() <= 6


def test_a_format_loads_its_own_decoder_only() -> None:
    """The first JPEG loads nothing for other formats, and others in the process still open and save what Pillow knows."""
    code = (
        "import io, sys; from PIL import Image; from lambda_src.images import decode; from tests.conftest import CAT; "
        "decode(CAT.read_bytes(), 10**7); before = {'PIL.PngImagePlugin', 'PIL.GifImagePlugin'} & set(sys.modules); "
        "file = io.BytesIO(); Image.new('RGB', (2, 2)).save(file, 'PPM'); print(before, Image.open(file).format)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() PPM\n"


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """A 16-bit gradient keeps its greys; Pillow's own conversion would make nearly all of it white."""
    ramp = np.tile(np.linspace(0, 65535, 20).astype(np.uint16), (16, 1))
    values = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG"), MAX_PIXELS))[0, :, 0]
    assert values.tolist() == (ramp[0] >> 8).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(codec: str, orientation: int) -> None:
    """A picture that its EXIF says was turned is classified upright: the red half is where the photographer saw it."""
    upright = Image.new("RGB", (32, 16), (0, 0, 255))
    upright.paste(RED, (0, 0, 16, 16))
    # What a camera stores for each value: https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, section 4.6.4 A
    stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    turned = upright
    for method in stored:
        turned = turned.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(turned, codec, exif=exif, **({"quality": 95} if codec in ("JPEG", "WEBP", "AVIF") else {}))
    result = decode(data, MAX_PIXELS)
    assert result.size == (32, 16)
    left, right = np.asarray(result)[8, 4], np.asarray(result)[8, 28]
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_broken_exif_is_ignored() -> None:
    """A picture with a damaged EXIF block is answered, without a warning on stderr."""
    data = encoded(plain(RED), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(decode(data, MAX_PIXELS), RED)


# The fast path


def test_large_jpeg_is_decoded_reduced() -> None:
    """A JPEG much larger than the target is decoded at a fraction of its size, at least twice the target."""
    image = decode(encoded(gradient(1200, 800), "JPEG"), MAX_PIXELS, target=80)
    assert image.size == (300, 200)


def test_jpeg_near_the_target_is_decoded_whole() -> None:
    """Below twice the margin nothing is reduced, so that the answer stays torchvision's to the bit."""
    image = decode(encoded(gradient(300, 200), "JPEG"), MAX_PIXELS, target=80)
    assert image.size == (300, 200)
    data = encoded(gradient(300, 200), "JPEG")
    spec = golden.variant(SMALL, resize=80, crop=(80, 80))
    assert np.array_equal(tensor(data, spec, MAX_PIXELS), prepared(data, spec))


def test_reduced_decode_looks_the_same() -> None:
    """The reduced decode stays close to the full one: both are averages of the same pixels."""
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
    """Where the sides do not divide by the scale of the fast decode, nothing moves: the mean error is at most 2 of 255."""
    data = encoded(waves(width, height, 40 if size == 32 else 120), "JPEG", quality=85)
    assert decode(data, MAX_PIXELS, target=size).size != (width, height)
    difference = np.abs(tensor(data, raw(size), MAX_PIXELS).astype(int) - prepared(data, raw(size)))
    assert difference.mean() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decode_does_not_shift_when_turned(orientation: int) -> None:
    """The part of a pixel at the edge of a reduced picture is found where the orientation of its EXIF puts it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(waves(517, 389, 40), "JPEG", quality=85, exif=exif)
    difference = np.abs(tensor(data, raw(32), MAX_PIXELS).astype(int) - prepared(data, raw(32)))
    assert difference.mean() <= 2


def test_reduced_decode_keeps_the_size_of_the_original() -> None:
    """The longer side is computed from the original: 2048 x 1365 becomes 384 columns and not 383."""
    data = encoded(waves(2048, 1365, 80), "JPEG")
    spec = Preprocess(256, (256, 384), dtype="uint8")
    assert (tensor(data, spec, MAX_PIXELS)[..., -1] > 0).any()  # a narrower picture has a black edge


def test_reduced_decode_is_turned_upright() -> None:
    """EXIF orientation holds on the fast path too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encoded(gradient(1200, 800), "JPEG", exif=exif), MAX_PIXELS, target=80)
    assert image.size == (200, 300)


def test_scans_without_end_are_refused() -> None:
    """A progressive JPEG that asks for hundreds of passes over its pixels is refused before it is decoded."""
    data = encoded(plain(RED), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(RequestError, match="scans"):
        decode(data[:-2] + data[scan:-2] * 100 + b"\xff\xd9", MAX_PIXELS)
