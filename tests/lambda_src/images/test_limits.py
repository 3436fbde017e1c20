"""Hostile input gets a 200 or a documented 4xx, quickly, without output, within 512 MB.

The handler runs in a separate process (tests/fuzz.py), so that its memory and its stderr can be measured.
"""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lambda_src.errors import RequestError
from lambda_src.events.http import is_http
from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.preprocess import Preprocess
from lambda_src.service import Service
from lambda_src.settings import MAX_PIXELS, Settings

from ... import bombs, fuzz
from ...bombs import small
from ...conftest import ROOT
from ...pictures import encoded, gradient, plain
from ..test_service import sample

FUZZ = ROOT / "tests" / "fuzz.py"
HUGE = (60_000, 60_000)
QUICK_MB = 160  # the process with its model takes about 70


def run(*arguments: str) -> str:
    """Run tests/fuzz.py, require no violation and an empty stderr, and return its output."""
    result = subprocess.run(
        [sys.executable, str(FUZZ), *arguments], capture_output=True, text=True, timeout=180, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


def ask(*pictures: bytes) -> list[dict[str, Any]]:
    """Send images to a new handler; return outcome, seconds and the peak memory so far of each."""
    names = [f"picture-{number}" for number in range(len(pictures))]
    for name, data in zip(names, pictures, strict=True):
        Path(name).write_bytes(data)
    return [json.loads(line) for line in run("--file", *names).splitlines()]


# Random cases


@pytest.mark.slow
def test_random_cases() -> None:
    """Each of 2,500 hostile events is answered as documented, with one log line, within 512 MB."""
    summary = run("--cases", "2500", "--seed", "1")
    assert "2,500 cases" in summary
    # S3 has no part in this; tests/lambda_src/test_service.py asks for what is not there.
    assert set(fuzz.DOCUMENTED) - {"s3_not_found"} - set(summary.split()) == set()


def test_cases_are_repeatable() -> None:
    """A case depends only on seed and number, so that a violation can be repeated."""
    pictures = [number for number in range(40) if "picture" in fuzz.case(3, number)[0]]
    once, again, other = ([fuzz.case(seed, number) for number in pictures] for seed in (3, 3, 4))
    assert once == again
    assert once != other


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ({"statusCode": 500, "body": {"error": {"code": "invalid_image", "message": "x"}}}, ["{}"]),
        ({"statusCode": 400, "body": {"error": {"code": "surprise", "message": "x"}}}, ["{}"]),
        ({"statusCode": 400, "body": {"error": {"code": "invalid_image", "message": f"in {ROOT}/x"}}}, ["{}"]),
        ({"statusCode": 400, "body": {"error": {"code": "invalid_image", "message": "at 0x7f1234567890"}}}, ["{}"]),
        ({"statusCode": 400, "body": {"error": {"code": "invalid_image", "message": "two\nlines"}}}, ["{}"]),
        ({"statusCode": 200, "body": {"predictions": [{"score": 1.5}]}}, ["{}"]),
        ({"statusCode": 200, "body": {"status": "ok"}}, []),
        ({"statusCode": 200, "body": {"status": "ok"}}, ['{"outcome": "ok"}', '{"outcome": "ok"}']),
        ({"statusCode": 200, "body": {"status": "ok"}}, ['{"outcome": NaN}']),
    ],
    ids=["status", "code", "path", "address", "lines", "score", "no line", "two lines", "nan"],
)
def test_violations_are_seen(answer: dict[str, Any], lines: list[str]) -> None:
    """The fuzz rejects answers and log lines that break the contract."""
    with pytest.raises(fuzz.ViolationError):
        fuzz.check_line(lines, fuzz.check_answer(False, answer))


@pytest.mark.slow
def test_undamaged_pictures_are_answered() -> None:
    """Every image that the random cases start from is accepted."""
    assert {line["outcome"] for line in ask(*fuzz.sound_pictures())} == {"ok"}


# Bombs: small files that ask for much memory or time


TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: bombs.sized(small("JPEG"), *HUGE),
    "jpeg in cmyk": lambda: bombs.sized(small("JPEG", "CMYK"), *HUGE),
    "progressive jpeg": lambda: bombs.sized(small("JPEG", progressive=True), *HUGE),
    "progressive jpeg of 3,000 scans": lambda: bombs.sized(
        bombs.many_scans(small("JPEG", progressive=True), 3000), *HUGE
    ),
    "png": lambda: bombs.sized(small("PNG"), 2**31 - 1, 2**31 - 1),
    "png just over the limit": lambda: bombs.sized(small("PNG"), MAX_PIXELS // 1000 + 1, 1000),
    "png of 16 bits": lambda: bombs.sized(small("PNG", "I;16"), *HUGE),
    "png with a palette": lambda: bombs.sized(small("PNG", "P"), *HUGE),
    "png of one row": lambda: bombs.sized(small("PNG", "1"), MAX_PIXELS, 1),
    "png of one column": lambda: bombs.sized(small("PNG", "1"), 1, MAX_PIXELS),
    "lossy webp": lambda: bombs.sized(small("WEBP"), 16383, 16383),
    "lossless webp": lambda: bombs.sized(small("WEBP", lossless=True), 16384, 16384),
    "extended webp": lambda: bombs.sized(small("WEBP", "RGBA"), 2**24, 255),
    "gif": lambda: bombs.sized(small("GIF"), 65535, 65535),
    "small gif with a huge frame": lambda: re.sub(
        rb",\0{4}.{4}", b"," + b"\0\0\0\0" + b"\xff" * 4, small("GIF"), count=1
    ),
    "bmp": lambda: bombs.sized(small("BMP"), *HUGE),
    "bmp upside down": lambda: bombs.sized(small("BMP"), 60_000, -60_000),
    "bmp in runs of 8 bits": lambda: bombs.bmp(*HUGE, bombs.RLE8, b"\0\2\xff\xff" * 1000),
    "bmp in runs of 4 bits": lambda: bombs.bmp(*HUGE, bombs.RLE4, b"\0\2\xff\xff" * 1000),
    # Rows of one pixel, that Pillow pads in Python: 8 kB were 10 seconds.
    "bmp of slow runs": lambda: bombs.bmp(65_535, 760, bombs.RLE8, b"\1\1\0\0" * 760),
    "raw tiff": lambda: bombs.grey_tiff(*HUGE, bombs.RAW, bytes(100)),
    "deflate tiff": lambda: bombs.grey_tiff(*HUGE, bombs.DEFLATE),
    "lzw tiff": lambda: bombs.grey_tiff(*HUGE, bombs.LZW, bytes(100)),
    "packbits tiff": lambda: bombs.grey_tiff(*HUGE, bombs.PACKBITS, bytes(100)),
    "fax tiff": lambda: bombs.grey_tiff(*HUGE, bombs.G4, bytes(100)),
    "lzma tiff": lambda: bombs.grey_tiff(*HUGE, bombs.LZMA, bytes(100)),
    "big tiff": lambda: bombs.grey_tiff(2**40, 2**40, bombs.DEFLATE, big=True),
    "tiff of huge tiles": lambda: bombs.tiled_tiff(*HUGE, 60_000, 60_000),
    "small tiff with a huge tile": lambda: bombs.tiled_tiff(10, 10, 40_000, 40_000),
    "small tiff with a long tile": lambda: bombs.tiled_tiff(10, 10, 16, 2**30),
    "tiff of one strip": lambda: bombs.grey_tiff(6300, 6300, bombs.DEFLATE, bytes(100)),
    "avif": lambda: bombs.sized(small("AVIF", speed=10), *HUGE),
    "avif with alpha": lambda: bombs.sized(small("AVIF", "RGBA", speed=10), 16384, 16384),
    # 2,247 bytes whose container says 64 x 64 and whose frame is 16384 x 16384.
    "small avif with a huge frame": lambda: (
        Path(__file__).parents[2] / "data" / "hostile" / "frame_16384.avif"
    ).read_bytes(),
}
# The file, and a word of the error.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg of 3,000 scans": (lambda: bombs.many_scans(small("JPEG", progressive=True), 3000), "scans"),
    "jpeg of a million tables": (lambda: small("JPEG")[:2] + bombs.segment(0xDB, b"") * 10**6, "segments"),
    "jpeg without a scan": (lambda: small("JPEG")[:300], "ends before"),
    # 120 GB of strips in 2 MB: hours.
    "tiff of overlapping strips": (lambda: bombs.overlapping_tiff(4000, 60_000), "overlap"),
    "tiff of 300,000 strips": (lambda: bombs.overlapping_tiff(4000, 300_000), "strips"),
    "tiff of tiles without a size": (lambda: bombs.tiled_tiff(9, 9, 16, 16, t322=b"12345678"), "no valid size"),
    "big tiff with its directory beyond all": (lambda: b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(100), "truncated"),
    "tiff cut off in its directory": (lambda: bombs.grey_tiff(10, 10, bombs.RAW, bytes(100))[:50], "truncated"),
    "avif of nested boxes": (lambda: small("AVIF", speed=10)[:32] + b"\0\0\0\0moov" * 100_000, "a box is damaged"),
    "avif of 100,000 boxes": (lambda: small("AVIF", speed=10) + b"\0\0\0\x08free" * 100_000, "too many"),
    "avif of 65,536 pictures": (lambda: _iloc(b"\2\0\0\0\x44\0\0\1\0\0"), "truncated"),
    "avif in 2,000 pieces": (lambda: bombs.avif([(0, 1)] * 2000), "too many parts"),
    # 60,000 times its picture, put together before it is decoded.
    "avif of overlapping pieces": (lambda: bombs.avif([(0, 200)] * 1000), "overlap"),
    "avif of pieces of no length": (lambda: _iloc(b"\0\0\0\0\0\0\xff\xff" + b"\0\1\0\0\xff\xff" * 3), "truncated"),
    "avif made of other items": (lambda: bombs.avif(method=2), "no data"),
    "avif without its pixels": (lambda: small("AVIF", speed=10)[:-8], "Truncated"),
    "png in a thousand places": (lambda: bombs.with_chunks(small("PNG"), (_text() + _chunk()) * 2000), "split into"),
    "gif of a million comments": (lambda: _commented(b"!\xfe\0" * 10**6), "blocks"),
    "gif of a comment of a million blocks": (lambda: _commented(b"!\xfe" + b"\1a" * 10**6 + b"\0"), "blocks"),
}


def _iloc(start: bytes) -> bytes:
    """Return an AVIF with another start of its item location box."""
    data = small("AVIF", speed=10)
    at = data.index(b"iloc") + 4
    return data[:at] + start + data[at + len(start) :]


def _text() -> bytes:
    return bombs.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**19)))


def _chunk() -> bytes:
    return bombs.chunk(b"abCd", b"")


def _commented(blocks: bytes) -> bytes:
    """Return a GIF with comment blocks before its image."""
    data = small("GIF")
    start = data.index(b",\0\0\0\0")
    return data[:start] + blocks + data[start:]


LYING: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: bombs.sized(small("JPEG"), 7000, 7000),
    "progressive jpeg": lambda: bombs.sized(small("JPEG", progressive=True), 7000, 7000),
    "png": lambda: bombs.sized(small("PNG"), 7000, 7000),
    "webp": lambda: bombs.sized(small("WEBP"), 4000, 4000),
    "extended webp": lambda: bombs.sized(small("WEBP", "RGBA"), 4000, 4000),
    "gif": lambda: bombs.sized(small("GIF"), 7000, 7000),
    "gif with a larger frame": lambda: bombs.sized(small("GIF"), 1, 1),
    "bmp": lambda: bombs.sized(small("BMP"), 7000, 7000),
    "tiff": lambda: bombs.sized(small("TIFF"), 5000, 5000),
    "lzw tiff": lambda: bombs.sized(small("TIFF", compression="tiff_lzw"), 5000, 5000),
    "fax tiff": lambda: bombs.sized(small("TIFF", "1", compression="group4"), 5000, 5000),
    "avif": lambda: bombs.sized(small("AVIF", speed=10), 4000, 4000),
}


@pytest.mark.slow
def test_too_large() -> None:
    """An image over the limit, in any format, gets 413 from its header, quickly and with little memory."""
    lines = dict(zip(TOO_LARGE, ask(*(make() for make in TOO_LARGE.values())), strict=True))
    assert {kind: line["outcome"] for kind, line in lines.items()} == dict.fromkeys(TOO_LARGE, "image_too_large")
    assert max(line["peak_mb"] for line in lines.values()) < QUICK_MB
    assert max(line["seconds"] for line in lines.values()) < fuzz.HANG_S


@pytest.mark.slow
def test_structures_that_no_encoder_writes() -> None:
    """A small file that would need much time or memory to decode is refused first."""
    lines = ask(*(make() for make, _ in REFUSED.values()))
    assert [line["outcome"] for line in lines] == ["invalid_image"] * len(REFUSED)
    assert [word for (_, word), line in zip(REFUSED.values(), lines, strict=True) if word not in line["message"]] == []
    assert lines[-1]["peak_mb"] < QUICK_MB


@pytest.mark.slow
def test_ballast_is_left_out() -> None:
    """Segments and chunks that decoding does not need cost no memory or time and do not change the answer."""
    icc = bombs.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21)))
    pictures = (
        # Pillow appends each to all before it: a minute.
        bombs.many_exifs(small("JPEG"), 30, 200_000),
        small("JPEG")[:2] + bombs.segment(0xE5, b"") * 10**6 + small("JPEG")[2:],
        bombs.with_chunks(small("PNG"), icc * 1000),
        bombs.with_chunks(small("PNG"), _chunk() * 300_000),
    )
    lines = ask(*pictures)
    assert [line["outcome"] for line in lines] == ["ok"] * len(pictures)
    assert lines[-1]["peak_mb"] < QUICK_MB


@pytest.mark.slow
def test_headers_that_claim_more_than_there_is() -> None:
    """An image with less data than its size needs is damaged, and takes no more memory than a complete one."""
    lines = ask(*(make() for make in LYING.values()))
    outcomes = dict(zip(LYING, (line["outcome"] for line in lines), strict=True))
    assert set(outcomes.values()) <= {"invalid_image", "ok"}, outcomes
    assert lines[-1]["peak_mb"] < fuzz.LIMIT_MB


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_frames_of_an_avif_count(mode: str, frames: int) -> None:
    """The codec headers say how large the frames of an AVIF are, still or animated."""
    film: dict[str, Any] = (
        {"save_all": True, "append_images": [plain(size=(24, 18)).convert(mode)]} if frames > 1 else {}
    )
    data = bombs.sized(small("AVIF", mode, speed=10, **film), 1, 1)
    layers = 2 if mode == "RGBA" else 1
    pictures = layers * (2 if frames > 1 else 1)  # an animation is there as a film and as a still picture
    with pytest.raises(RequestError, match=f"more than {pictures * 24 * 18 - 1:,} pixels"):
        decode(data, pictures * 24 * 18 - 1)


PLACES: dict[str, Callable[[], bytes]] = {
    "version 0": lambda: bombs.avif(version=0),
    "version 1": bombs.avif,
    "version 2": lambda: bombs.avif(version=2),
    "version 3": lambda: bombs.avif(version=3),
    "offsets of 8 bytes": lambda: bombs.avif(sizes=(8, 8, 8, 0)),
    "offsets of 2 bytes": lambda: bombs.avif(sizes=(2, 2, 4, 0)),
    "no offset but the base": lambda: bombs.avif(sizes=(0, 4, 4, 0)),
    "an index": lambda: bombs.avif(sizes=(4, 4, 4, 4)),
    "no length": lambda: bombs.avif([(0, 0)], sizes=(4, 0, 4, 0)),
    "a length of 0": lambda: bombs.avif([(0, 0)]),
    "two pieces": lambda: bombs.avif([(0, 100), (100, 161)]),
    "200 pieces": lambda: bombs.avif([(i, 1) for i in range(200)] + [(200, 61)]),
    "a piece of no length": lambda: bombs.avif([(0, 261), (0, 0)]),
    "no pieces": lambda: bombs.avif([]),
    "pieces that overlap": lambda: bombs.avif([(0, 261)] * 50),
    "idat": lambda: bombs.avif(method=1),
    "idat, version 2": lambda: bombs.avif(method=1, version=2),
    "idat in two pieces": lambda: bombs.avif([(0, 100), (100, 161)], method=1),
    "idat that ends early": lambda: bombs.avif([(1, 261)], method=1),
    "idat that is not there": lambda: bombs.avif(method=1, idat=False),
    "other items": lambda: bombs.avif(method=2),
    "a method that does not exist": lambda: bombs.avif(method=3),
    "a reserved bit": lambda: bombs.avif(method=16),
}


@pytest.mark.parametrize("kind", PLACES)
def test_places_of_an_avif(kind: str) -> None:
    """An AVIF is decoded wherever it stores its data if libavif decodes it too; others are refused."""
    data = PLACES[kind]()
    try:
        expected = Image.open(io.BytesIO(data)).convert("RGB").tobytes()
    except Exception:  # Pillow raises many types
        with pytest.raises(RequestError):
            decode(data, MAX_PIXELS)
    else:
        assert decode(data, MAX_PIXELS).tobytes() == expected


@pytest.mark.parametrize("kind", ["two pieces", "200 pieces", "idat", "idat in two pieces"])
def test_frames_of_an_avif_in_pieces_count(kind: str) -> None:
    """The codec header says how large the image is, also in idat and in several extents."""
    data = bombs.sized(PLACES[kind](), 1, 1)
    with pytest.raises(RequestError, match=f"more than {24 * 18 - 1} pixels"):
        decode(data, 24 * 18 - 1)


def test_film_after_a_photograph() -> None:
    """A motion photo is accepted: the bytes of its video do not count as JPEG scans."""
    film = random.Random(0).randbytes(4_000_000)
    assert film.count(b"\xff\xda") > 32
    data = encoded(gradient(), "JPEG", progressive=True)
    assert np.array_equal(np.asarray(decode(data + film, MAX_PIXELS)), np.asarray(decode(data, MAX_PIXELS)))


# At the limit


def at_limit(codec: str, mode: str, pixels: int, **options: Any) -> bytes:
    """Return a square image with at most `pixels` pixels."""
    side = int(pixels**0.5)
    colour: Any = (200, 120, 60, 77)[: len(mode)] if mode in ("RGB", "RGBA", "CMYK") else 1
    return encoded(Image.new(mode, (side, side), colour), codec, **options)


def one_strip_tiff(pixels: int) -> bytes:
    """Return a float TIFF that libtiff unpacks as a whole."""
    side = int(pixels**0.5)
    data = zlib.compress(np.full((side, side), 0.5, np.float32).tobytes(), 1)
    return bombs.grey_tiff(side, side, bombs.DEFLATE, data, t258=(32,), t339=(3,))


AT_LIMIT: dict[str, Callable[[], bytes]] = {
    "rgba png": lambda: at_limit("PNG", "RGBA", MAX_PIXELS, compress_level=1),
    "16-bit png": lambda: at_limit("PNG", "I;16", MAX_PIXELS, compress_level=1),
    "turned png": lambda: at_limit("PNG", "RGB", MAX_PIXELS, compress_level=1, exif=bombs.exif([(0x0112, 3, 1, 6)])),
    "progressive jpeg": lambda: at_limit("JPEG", "RGB", MAX_PIXELS, progressive=True, subsampling=0),
    "progressive cmyk jpeg": lambda: at_limit("JPEG", "CMYK", 49_600_000, progressive=True),
    "gif": lambda: at_limit("GIF", "L", MAX_PIXELS),
    "black and white bmp": lambda: at_limit("BMP", "1", MAX_PIXELS),
    "rgba tiff": lambda: at_limit("TIFF", "RGBA", 40_000_000, compression="tiff_lzw"),
    "float tiff": lambda: at_limit("TIFF", "F", 40_000_000, compression="tiff_adobe_deflate"),
    "float tiff of one strip": lambda: one_strip_tiff(33_000_000),
    "rgba webp": lambda: at_limit("WEBP", "RGBA", 20_000_000, method=0, quality=10),
    "lossless rgba webp": lambda: at_limit("WEBP", "RGBA", 20_000_000, method=0, quality=0, lossless=True),
    "rgba avif": lambda: at_limit("AVIF", "RGBA", 16_666_666, speed=10, subsampling="4:4:4"),
    "long strip": lambda: encoded(Image.new("RGB", (65_535, 762)), "PNG", compress_level=1),
}


@pytest.mark.parametrize("kind", AT_LIMIT)
@pytest.mark.slow
def test_at_the_limit(kind: str) -> None:
    """The largest allowed image, in the modes that need most memory, keeps the process below 512 MB."""
    [line] = ask(AT_LIMIT[kind]())
    assert line["outcome"] == "ok", line["message"]
    assert line["peak_mb"] < fuzz.LIMIT_MB


@pytest.mark.parametrize(("codec", "pixels"), [("WEBP", 20_000_000), ("AVIF", 16_666_666), ("TIFF", 40_000_000)])
def test_memory_intensive_formats_have_a_lower_limit(codec: str, pixels: int) -> None:
    """A format whose decoder holds more than two copies has a lower limit, and the error names it."""
    data = small(codec, compression="tiff_lzw") if codec == "TIFF" else small(codec)
    limit = 24 * 18 * MAX_PIXELS // pixels
    assert decode(data, limit + 3).size == (24, 18)
    with pytest.raises(RequestError, match=f"more than 4[23][0-9] pixels .*{codec}") as caught:
        decode(data, limit - 3)
    assert (caught.value.status, caught.value.code) == (413, "image_too_large")


@pytest.mark.slow
def test_long_strips_are_cut_to_their_middle() -> None:
    """A very long image is cut to its middle before it is resized, with the same result."""
    spec = Preprocess(1024, (1024, 1024))
    strip = gradient(1000, 20)
    assert resize_and_crop(Image.new("RGB", (65_535, 1)), Preprocess(256, (224, 224))).size == (224, 224)
    whole = strip.resize((51_200, 1024), Image.Resampling.BILINEAR).crop((25_088, 0, 26_112, 1024))
    difference = np.abs(np.asarray(resize_and_crop(strip, spec), np.int16) - np.asarray(whole, np.int16))
    assert difference.max() <= 2


# Events

NESTED: Any = "x"
for _ in range(5000):
    NESTED = [NESTED]
HTTP: dict[str, Any] = sample("function_url", b"no picture")
WRONG: dict[str, tuple[Any, str]] = {
    "a number of 5,000 digits": ({"image": 10**5000}, "invalid_base64"),
    "a top_k of 5,000 digits": ({"image": "AAAA", "top_k": 10**5000}, "invalid_image"),
    "a negative top_k of 5,000 digits": ({"image": "AAAA", "top_k": -(10**5000)}, "invalid_top_k"),
    "nan": ({"image": "AAAA", "top_k": float("nan")}, "invalid_top_k"),
    "a list 5,000 deep": (NESTED, "invalid_json"),
    "an image 5,000 deep": ({"image": NESTED}, "invalid_base64"),
    "an s3 5,000 deep": ({"s3": NESTED}, "invalid_json"),
    "a lone surrogate": ({"image": "\ud800"}, "invalid_base64"),
    "a lone surrogate in s3": ({"s3": "s3://bucket/\ud800"}, "s3_forbidden"),
    "bytes": (b"image", "invalid_json"),
    "headers that are a list": (HTTP | {"headers": []}, "invalid_image"),
    "http that is null": (HTTP | {"requestContext": {"http": None}}, "method_not_allowed"),
    "a method 5,000 deep": (HTTP | {"requestContext": {"http": {"method": NESTED}}}, "method_not_allowed"),
    "a body that is a number": (HTTP | {"body": 7}, "invalid_base64"),
    "isBase64Encoded that is a word": (HTTP | {"isBase64Encoded": "yes"}, "invalid_base64"),
    "a media type 5,000 deep": (HTTP | {"headers": {"Content-Type": NESTED}}, "unsupported_media_type"),
    "a query 5,000 deep": (HTTP | {"queryStringParameters": {"top_k": NESTED}}, "invalid_top_k"),
    "json 100,000 deep": (fuzz.with_json(HTTP, "[" * 100_000), "invalid_json"),
    "json with 5,000 digits": (fuzz.with_json(HTTP, '{"image": "", "top_k": ' + "9" * 5000 + "}"), "invalid_json"),
    "json with nan": (fuzz.with_json(HTTP, '{"image": "AAAA", "top_k": NaN}'), "invalid_top_k"),
    "json that holds a number": (fuzz.with_json(HTTP, "7"), "invalid_json"),
    "json of a million objects": (fuzz.with_json(HTTP, "[" + "{}," * 1_000_000 + "0]"), "invalid_json"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_types(tiny_model: Path, kind: str) -> None:
    """A wrong type anywhere in an event has its documented error, in the form that the sender expects."""
    event, code = WRONG[kind]
    lines: list[str] = []
    answer = Service(Settings(str(tiny_model)), lines.append).answer(event)
    outcome = fuzz.check_answer(is_http(event), answer)
    fuzz.check_line(lines, outcome)
    assert outcome == code
