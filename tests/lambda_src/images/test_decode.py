"""Decoding: every kind of image that users send becomes upright RGB pixels."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lambda_src.errors import RequestError
from lambda_src.images.decode import decode
from lambda_src.settings import MAX_PIXELS

from ... import bombs
from ...pictures import encoded, plain

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
    """Each supported format decodes to the image that was encoded."""
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
    """Grey, palette, CMYK, 16-bit, alpha and animated images give their colours; an animation gives its first frame."""
    make, expected = MODES[kind]
    assert_close(decode(make(), MAX_PIXELS), expected)


def assert_close(image: Image.Image, colour: tuple[int, int, int]) -> None:
    """Check that a decoded image is 20 x 16, RGB and of one colour, within the coding's loss."""
    assert (image.mode, image.size) == ("RGB", (20, 16))
    assert np.abs(np.asarray(image, np.int16) - np.asarray(colour, np.int16)).max() <= 6


@pytest.mark.slow
def test_a_format_loads_its_own_decoder_only() -> None:
    """The first JPEG loads no decoder of other formats, and Pillow still opens and saves them elsewhere."""
    code = (
        "import io, sys; from PIL import Image; from lambda_src.images.decode import decode; from tests.conftest import CAT; "
        "decode(CAT.read_bytes(), 10**7); before = {'PIL.PngImagePlugin', "
        "'PIL.GifImagePlugin', 'lambda_src.images.formats', 'lambda_src.images.avif'} & set(sys.modules); "
        "file = io.BytesIO(); Image.new('RGB', (2, 2)).save(file, 'PPM'); print(before, Image.open(file).format)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() PPM\n"


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """A 16-bit gradient is scaled; Pillow's own conversion would make nearly all of it white."""
    ramp = np.tile(np.linspace(0, 65535, 20).astype(np.uint16), (16, 1))
    values = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG"), MAX_PIXELS))[0, :, 0]
    assert values.tolist() == (ramp[0] >> 8).tolist()


def _packed(bits: int, values: NDArray[Any]) -> bytes:
    """Return rows of numbers with `bits` bits each, first bit first, as TIFF packs them."""
    spread = values.astype(np.uint64)[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64) & np.uint64(1)
    return b"".join(np.packbits(row.astype(np.uint8)).tobytes() for row in spread.reshape(len(values), -1))


def ramp_tiff(
    bits: int, *, photometric: int = 1, signed: bool = False, order: str = "<", compression: int = bombs.RAW
) -> bytes:
    """Return a grey TIFF, 48 x 40, with a ramp from black to white over the range of its type, mostly dark."""
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
    """White is the largest number that BitsPerSample and SampleFormat allow, or 0 if the file says so."""
    image = decode(ramp_tiff(**RAMPS[kind]), MAX_PIXELS)
    expected = 255 * np.linspace(0, 1, 48 * 40).reshape(40, 48) ** 2
    assert np.abs(np.asarray(image)[:, :, 0] - expected).max() <= 2


def test_a_dark_grey_below_zero_is_black() -> None:
    """Signed numbers below zero are black, not white."""
    data = np.full(48 * 40, -300, "<i2").tobytes()
    image = decode(bombs.grey_tiff(48, 40, bombs.RAW, data, t258=(16,), t339=(2,)), MAX_PIXELS)
    assert image.getextrema() == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(codec: str, orientation: int) -> None:
    """EXIF orientation is applied before the classification."""
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
    """A damaged EXIF block is ignored, without a warning on stderr."""
    data = encoded(plain(RED), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(decode(data, MAX_PIXELS), RED)


def test_scans_without_end_are_refused() -> None:
    """A progressive JPEG with hundreds of scans is refused before it is decoded."""
    data = encoded(plain(RED), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(RequestError, match="scans"):
        decode(data[:-2] + data[scan:-2] * 100 + b"\xff\xd9", MAX_PIXELS)


# Edges of floats: not a number, infinities, the largest and the smallest, around each white
FLOATS = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, 255.0, 65535.0, 65536.0]
FLOATS += [3.4028235e38, -3.4028235e38, 1e-45, 1.0000001, 255.00002, 254.99998]


def _levels(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return the grays of 8 bits that the documentation promises, computed with numpy in float32. bits: of a number."""
    signed = values.dtype.kind == "i"
    floats = np.nan_to_num(values.astype(np.float32))
    top = max(float(floats.max()), 0.0)
    white = 2.0 ** (bits - signed) - 1
    if bits > 16:
        white = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)
        white = 255.0 if white == 1 and values.dtype.kind != "f" else white
    with np.errstate(over="ignore"):
        levels: NDArray[np.uint8] = np.clip(floats * np.float32(255.0 / white), 0, 255).astype(np.uint8)
    return levels


@pytest.mark.parametrize("case", range(24))
def test_greys_equal_those_of_numpy(case: int) -> None:
    """Grays of 16 and 32 bits and floats, with NaN and infinities, become the levels that numpy computes."""
    random = np.random.default_rng(case)
    shape = tuple(random.integers(1, 40, 2))
    numbers = random.integers(0, 2 ** int(random.integers(1, 33)), shape, dtype=np.uint64)
    floats = (random.standard_normal(shape) * 10.0 ** random.uniform(-3, 38)).astype(np.float32)
    floats[random.random(shape) < 0.3 * (case % 3)] = random.choice(np.array(FLOATS, np.float32))
    floats.flat[0] = FLOATS[case % len(FLOATS)]
    signed = numbers.astype(np.uint32).view(np.int32)
    short = (numbers % 2**16).astype(np.uint16)
    for values, bits in (
        (short, 16),
        (short >> 4, 12),
        (short.view(np.int16), 16),
        (numbers.astype(np.uint32), 32),
        (signed, 32),
        (floats, 32),
    ):
        kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        expected = values >> bits - 8 if values.dtype == np.uint16 else _levels(values, bits)
        for order in "<" if (bits, kind) in ((12, 1), (32, 1)) else "<>":  # Pillow does not read the other one
            data = _packed(bits, values) if bits == 12 else values.astype(order + values.dtype.str[1:]).tobytes()
            height, width = map(int, shape)
            file = bombs.grey_tiff(width, height, bombs.RAW, data, order=order, t258=(bits,), t339=(kind,))
            assert np.array_equal(np.asarray(decode(file, MAX_PIXELS))[:, :, 1], expected), (values.dtype, order)
