"""Pre-processing: the same numbers as torchvision, for every kind of picture that users send."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from devtools import reference
from lambda_src.errors import ModelError, RequestError
from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.preprocess import Preprocess
from lambda_src.images.tensor import tensor, to_array
from lambda_src.settings import MAX_PIXELS

from ... import bombs, golden
from ...conftest import CAT
from ...pictures import encoded, gradient, plain, waves

IMAGENET = golden.SPECS["imagenet"]
SMALL = golden.SPECS["small"]


def prepared(data: bytes, spec: Preprocess) -> NDArray[Any]:
    """Return the tensor of a picture whose every pixel was decoded."""
    return to_array(resize_and_crop(decode(data, MAX_PIXELS), spec), spec)


# Equal to torchvision


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("spec", [IMAGENET, SMALL], ids=["imagenet", "small"])
def test_photographs_equal_torchvision(photos: list[Path], spec: Preprocess) -> None:
    """On every photograph the tensor is bit for bit that of torchvision's ImageClassification transform."""
    transform = reference.transform(spec)
    for photo in photos:
        expected = transform(Image.open(photo).convert("RGB")).numpy()
        assert np.array_equal(prepared(photo.read_bytes(), spec)[0], expected), photo.name


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (31, 33), (33, 31), (257, 256), (640, 97), (97, 640)])
def test_odd_sizes_equal_torchvision(size: tuple[int, int]) -> None:
    """Rounding at odd sizes, and pictures narrower than the crop, are torchvision's to the bit."""
    spec = Preprocess(40, (37, 52), mean=IMAGENET.mean, std=IMAGENET.std)
    transform = reference.transform(spec)
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert np.array_equal(prepared(encoded(image, "PNG"), spec)[0], transform(image).numpy())


@pytest.mark.usefixtures("torchvision")
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


@pytest.mark.usefixtures("torchvision")
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
        "import io, sys; from PIL import Image; from lambda_src.images.decode import decode; from tests.conftest import CAT; "
        "decode(CAT.read_bytes(), 10**7); before = {'PIL.PngImagePlugin', "
        "'PIL.GifImagePlugin', 'lambda_src.images.formats', 'lambda_src.images.avif'} & set(sys.modules); "
        "file = io.BytesIO(); Image.new('RGB', (2, 2)).save(file, 'PPM'); print(before, Image.open(file).format)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() PPM\n"


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """A 16-bit gradient keeps its greys; Pillow's own conversion would make nearly all of it white."""
    ramp = np.tile(np.linspace(0, 65535, 20).astype(np.uint16), (16, 1))
    values = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG"), MAX_PIXELS))[0, :, 0]
    assert values.tolist() == (ramp[0] >> 8).tolist()


def _packed(bits: int, values: NDArray[Any]) -> bytes:
    """Return rows of so many bits a number, the first bit first, as TIFF packs them."""
    spread = values.astype(np.uint64)[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64) & np.uint64(1)
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in spread.reshape(len(values), -1))


def _ramp_tiff(
    bits: int, *, photometric: int = 1, signed: bool = False, order: str = "<", compression: int = bombs.RAW
) -> bytes:
    """Return a grey TIFF, 48 x 40, of a ramp from black to white over the range of its type; darker than it is bright."""
    ramp = np.linspace(0, 1, 48 * 40).reshape(40, 48) ** 2
    values = np.round((1 - ramp if photometric == 0 else ramp) * (2 ** (bits - signed) - 1)).astype(np.uint64)
    data = _packed(bits, values) if bits % 8 else values.astype(f"{order}u{bits // 8}").tobytes()
    data = zlib.compress(data) if compression == bombs.DEFLATE else data
    more: dict[str, Any] = {"t258": (bits,), "t262": (photometric,), "t339": (2 if signed else 1,)}
    return bombs.grey_tiff(48, 40, compression, data, order=order, **more)


RAMPS: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "8 bits, white is 0": {"bits": 8, "photometric": 0},
    "8 bits, signed": {"bits": 8, "signed": True},
    "12 bits": {"bits": 12},
    "12 bits, compressed": {"bits": 12, "compression": bombs.DEFLATE},
    "16 bits": {"bits": 16},
    "16 bits, big-endian": {"bits": 16, "order": ">"},
    "16 bits, white is 0": {"bits": 16, "photometric": 0},
    "16 bits, white is 0, compressed": {"bits": 16, "photometric": 0, "compression": bombs.DEFLATE},
    "16 bits, signed": {"bits": 16, "signed": True},
    "16 bits, signed, big-endian": {"bits": 16, "signed": True, "order": ">"},
    "32 bits": {"bits": 32},
    "32 bits, signed": {"bits": 32, "signed": True},
}


@pytest.mark.parametrize("kind", RAMPS)
def test_greys_of_any_depth_are_equally_bright(kind: str) -> None:
    """White is the largest number that the TIFF's BitsPerSample and SampleFormat allow, or 0 where the file says so."""
    image = decode(_ramp_tiff(**RAMPS[kind]), MAX_PIXELS)
    expected = 255 * np.linspace(0, 1, 48 * 40).reshape(40, 48) ** 2
    assert np.abs(np.asarray(image)[:, :, 0] - expected).max() <= 2


def test_a_dark_grey_below_zero_is_black() -> None:
    """Of signed numbers those below zero are black, not white."""
    data = np.full(48 * 40, -300, "<i2").tobytes()
    image = decode(bombs.grey_tiff(48, 40, bombs.RAW, data, t258=(16,), t339=(2,)), MAX_PIXELS)
    assert image.getextrema() == ((0, 0), (0, 0), (0, 0))


# Files that are not decoded


def _ftyp(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">L", 8 + len(brands)) + b"ftyp" + brands + bytes(64)


def _frame(marker: int, precision: int = 8) -> bytes:
    """Return a JPEG whose frame says that it is coded otherwise."""
    data = bytearray(encoded(gradient(64, 48), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def _raw(make: bytes = b"", **tags: Any) -> bytes:
    """Return a TIFF of a sensor's data, as cameras write them."""
    more: dict[str, Any] = {"t262": (32803,), "t271": make + b"\0"} | tags
    return bombs.grey_tiff(48, 40, 1, bytes(48 * 40), **more)


def _text(start: str) -> bytes:
    return start.encode() + b" " * 3000


NOT_DECODED: dict[str, tuple[Callable[[], bytes], str]] = {
    "heic": (lambda: _ftyp(b"heic", b"mif1", b"heic"), "HEIC"),
    "heif with heic in it": (lambda: _ftyp(b"mif1", b"mif1", b"heic"), "HEIC"),
    "heif of a burst": (lambda: _ftyp(b"msf1", b"hevc"), "HEIC"),
    "heif of another coding": (lambda: _ftyp(b"mif1", b"miaf"), "HEIF"),
    "mp4": (lambda: _ftyp(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), "video"),
    "mp4 of a telephone": (lambda: _ftyp(b"mp42", b"mp42", b"isom"), "video"),
    "3gp": (lambda: _ftyp(b"3gp5", b"3gp5", b"isom"), "video"),
    "quicktime": (lambda: _ftyp(b"qt  ", b"qt  "), "video"),
    "old quicktime": (lambda: b"\0\0\x10\0moov" + bytes(64), "video"),
    "cr3": (lambda: _ftyp(b"crx ", b"crx ", b"isom"), "CR3"),
    "an unknown brand": (lambda: _ftyp(b"abcd"), "MP4"),
    "webm": (lambda: b"\x1aE\xdf\xa3" + bytes(64), "video"),
    "avi": (lambda: b"RIFF\0\0\0\0AVI LIST" + bytes(64), "video"),
    "jpeg xl": (lambda: b"\xff\x0a" + bytes(64), "JPEG XL"),
    "jpeg xl in boxes": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + _ftyp(b"jxl "), "JPEG XL"),
    "jpeg 2000": (lambda: encoded(plain(RED), "JPEG2000"), "JPEG 2000"),
    "lossless jpeg": (lambda: _frame(0xC3, 16), "lossless"),
    "hierarchical jpeg": (lambda: _frame(0xC5), "hierarchical"),
    "arithmetic-coded jpeg": (lambda: _frame(0xCA), "arithmetic"),
    "12-bit jpeg": (lambda: _frame(0xC1, 12), "12 bits"),
    "jpeg-ls": (lambda: _frame(0xF7), "JPEG-LS"),
    "svg": (lambda: _text('<svg xmlns="http://www.w3.org/2000/svg">'), "SVG"),
    "svg as xml": (lambda: _text('\ufeff<?xml version="1.0"?>\n<!-- made by hand -->\n<svg>'), "SVG"),
    "html": (lambda: _text("\n<!DOCTYPE html><html><body>404"), "HTML"),
    "xml": (lambda: _text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "XML"),
    "json": (lambda: _text('{"image": "..."}'), "JSON"),
    "base64 twice": (lambda: base64.b64encode(encoded(plain(RED), "JPEG")), "base64"),
    "git lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "psd": (lambda: b"8BPS\0\1" + bytes(64), "PSD"),
    "pdf": (lambda: b"%PDF-1.7\n" + bytes(64), "PDF"),
    "icon": (lambda: encoded(plain(RED), "ICO"), "icon"),
    "ppm": (lambda: encoded(plain(RED), "PPM"), "PNM"),
    "zip": (lambda: b"PK\3\4" + bytes(64), "ZIP"),
    "ios png": (lambda: bombs.with_chunks(encoded(plain(RED), "PNG"), b"")[:12] + b"CgBI" + bytes(64), "iOS"),
    "dng": (lambda: _raw(t50706=(1, 4, 0, 0)), "DNG"),
    "nef": (lambda: _raw(b"NIKON CORPORATION"), "NEF"),
    "arw": (lambda: _raw(b"SONY", t259=(32767,)), "ARW"),
    "cr2": (lambda: _canon(), "CR2"),
    "raw of an unknown maker": (lambda: _raw(b"ACME"), "raw file"),
    "dng with a thumbnail": (lambda: _raw(t50706=(1, 4, 0, 0), t254=(1,), t262=(1,)), "DNG"),
    "nef with a thumbnail": (lambda: _raw(b"NIKON CORPORATION", t254=(1,), t262=(1,), t330=(8,)), "NEF"),
    "raf": (lambda: b"FUJIFILMCCD-RAW 0201" + bytes(64), "RAF"),
    "tiff in jpeg 2000": (lambda: bombs.grey_tiff(48, 40, 34712, bytes(100)), "JPEG 2000"),
    "tiff in webp": (lambda: bombs.grey_tiff(48, 40, 50001, bytes(100)), "WebP"),
    "tiff in an unknown coding": (lambda: bombs.grey_tiff(48, 40, 12345, bytes(100)), "12345"),
    "10-bit tiff": (lambda: _ramp_tiff(10), "10 bits"),
    "14-bit tiff": (lambda: _ramp_tiff(14), "14 bits"),
    "big-endian 12-bit tiff": (lambda: _ramp_tiff(12, order=">"), "12 bits"),
    "tiff of half floats": (lambda: bombs.grey_tiff(4, 4, 1, bytes(32), t258=(16,), t339=(3,)), "floats"),
    "tiff of planes of 16 bits": (lambda: _planes(), "planes"),
}


def _canon() -> bytes:
    """Return a TIFF with the mark of a CR2 after its header."""
    tags: dict[int, Any] = {256: (48,), 257: (40,), 258: (8,), 259: (1,), 262: (32803,), 273: (0,), 279: (1,)}
    data = bombs.tiff(tags)
    head = struct.pack("<2sHL4sL", b"II", 42, 16, b"CR\2\0", 0)
    return head + data[8:]


def _planes() -> bytes:
    """Return an RGB TIFF of 16 bits that keeps red, green and blue apart; Pillow reads it as 8 bits."""
    tags: dict[int, Any] = {
        256: (8,),
        257: (8,),
        258: (16, 16, 16),
        259: (1,),
        262: (2,),
        277: (3,),
        278: (8,),
        284: (2,),
    }
    return bombs.tiff(tags | {273: (-1, -1, -1), 279: (128,) * 3}, bytes(128))


@pytest.mark.parametrize("kind", NOT_DECODED)
def test_what_is_not_decoded_is_named(kind: str) -> None:
    """A file of another format is named for what it is, with what to do, and never called broken."""
    make, word = NOT_DECODED[kind]
    with pytest.raises(RequestError) as caught:
        decode(make(), MAX_PIXELS)
    assert caught.value.code == "invalid_image"
    assert word in str(caught.value)
    assert ": " in str(caught.value)
    assert "broken" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("tags", [{"t254": (1,)}, {"t271": b"NIKON\0", "t330": (8,)}], ids=["thumbnail", "maker"])
def test_a_tiff_that_is_not_raw_is_decoded(tags: dict[str, Any]) -> None:
    """A TIFF of a camera's maker, or one that begins with a small copy, is an ordinary picture."""
    assert decode(bombs.grey_tiff(48, 40, bombs.RAW, bytes(48 * 40), **tags), MAX_PIXELS).size == (48, 40)


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "TIFF", "AVIF", "WEBP"])
def test_a_damaged_picture_is_not_called_another_format(codec: str) -> None:
    """A picture of a supported format that ends early is damaged, and no other format."""
    data = encoded(gradient(64, 48), codec)
    with pytest.raises(RequestError) as caught:
        decode(data[: len(data) * 2 // 3], MAX_PIXELS)
    assert caught.value.code == "invalid_image"
    assert "convert" not in str(caught.value)


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
