"""The error for an unsupported file names its format."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from lambda_src.errors import RequestError
from lambda_src.images.decode import decode
from lambda_src.settings import MAX_PIXELS

from ... import bombs
from ...pictures import encoded, gradient, plain
from .test_decode import RED, ramp_tiff


def _ftyp(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">L", 8 + len(brands)) + b"ftyp" + brands + bytes(64)


def _frame(marker: int, precision: int = 8) -> bytes:
    """Return a JPEG whose frame header names another coding."""
    data = bytearray(encoded(gradient(64, 48), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def _raw(make: bytes = b"", **tags: Any) -> bytes:
    """Return a TIFF with raw sensor data, as cameras write them."""
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
    "10-bit tiff": (lambda: ramp_tiff(10), "10 bits"),
    "14-bit tiff": (lambda: ramp_tiff(14), "14 bits"),
    "big-endian 12-bit tiff": (lambda: ramp_tiff(12, order=">"), "12 bits"),
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
    """Return an RGB TIFF of 16 bits with separate planes; Pillow reads it as 8 bits."""
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
def test_unsupported_formats_are_named(kind: str) -> None:
    """The error for an unsupported format names it, with a next step, and does not call it damaged."""
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
    """A TIFF from a camera, or one that begins with a thumbnail, is decoded."""
    assert decode(bombs.grey_tiff(48, 40, bombs.RAW, bytes(48 * 40), **tags), MAX_PIXELS).size == (48, 40)


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "TIFF", "AVIF", "WEBP"])
def test_a_damaged_picture_is_not_called_another_format(codec: str) -> None:
    """A truncated image of a supported format is reported as damaged."""
    data = encoded(gradient(64, 48), codec)
    with pytest.raises(RequestError) as caught:
        decode(data[: len(data) * 2 // 3], MAX_PIXELS)
    assert caught.value.code == "invalid_image"
    assert "convert" not in str(caught.value)
