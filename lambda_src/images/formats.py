"""Name the format of a file that cannot be decoded, and what to do with it.

An image that can be decoded uses only `is_avif` (AVIF) and `holds_thumbnail` (TIFF) from here.
"""

from __future__ import annotations

import re
import struct
from itertools import islice

from .limits import MAX_PARTS, jpeg_segments, tiff_entries, tiff_forms

# Bytes of a text file that are searched for its format.
MAX_HEAD = 1024
# Values that are read of a TIFF tag: samples per pixel, or the bytes of a camera maker's name.
MAX_NUMBERS = 16

_CONVERT = "convert it to JPEG or PNG"
_RAW = "export it as JPEG"
_VIDEO = "send one frame of it as JPEG or PNG"
_UNPACK = "send the image inside it"

# (magic bytes, their offset, name of the format, what to do)
_MAGIC = (
    (b"\xff\x0a", 0, "a JPEG XL image", _CONVERT),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, "a JPEG XL image", _CONVERT),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "a JPEG 2000 image", _CONVERT),
    (b"\xff\x4f\xff\x51", 0, "a JPEG 2000 image", _CONVERT),
    (b"II\xbc\x01", 0, "a JPEG XR image", _CONVERT),
    (b"8BPS", 0, "a Photoshop document (PSD)", _CONVERT),
    (b"gimp xcf", 0, "a GIMP document (XCF)", _CONVERT),
    (b"%PDF-", 0, "a PDF document", "export the page as JPEG or PNG"),
    (b"%!PS", 0, "a PostScript document", "export the page as JPEG or PNG"),
    (b"\0\0\1\0", 0, "an icon (ICO)", _CONVERT),
    (b"\0\0\2\0", 0, "a cursor (CUR)", _CONVERT),
    (b"icns", 0, "an icon (ICNS)", _CONVERT),
    (b"qoif", 0, "a QOI image", _CONVERT),
    (b"v/1\x01", 0, "an OpenEXR image", _CONVERT),
    (b"#?RADIANCE", 0, "a Radiance HDR image", _CONVERT),
    (b"DDS ", 0, "a DDS texture", _CONVERT),
    (b"BPG\xfb", 0, "a BPG image", _CONVERT),
    (b"FLIF", 0, "a FLIF image", _CONVERT),
    (b"AT&TFORM", 0, "a DjVu document", "export the page as JPEG or PNG"),
    (b"DICM", 128, "a DICOM file", _CONVERT),
    (b"SIMPLE  =", 0, "a FITS file", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file", _CONVERT),
    (b"FUJIFILMCCD-RAW", 0, "a camera raw file (RAF)", _RAW),
    (b"IIRO", 0, "a camera raw file (ORF)", _RAW),
    (b"IIRS", 0, "a camera raw file (ORF)", _RAW),
    (b"MMOR", 0, "a camera raw file (ORF)", _RAW),
    (b"IIU\0", 0, "a camera raw file (RW2)", _RAW),
    (b"FOVb", 0, "a camera raw file (X3F)", _RAW),
    (b"\0MRM", 0, "a camera raw file (MRW)", _RAW),
    (b"HEAPCCDR", 6, "a camera raw file (CRW)", _RAW),
    (b"moov", 4, "a video (QuickTime)", _VIDEO),
    (b"mdat", 4, "a video (QuickTime)", _VIDEO),
    (b"wide", 4, "a video (QuickTime)", _VIDEO),
    (b"AVI ", 8, "a video (AVI)", _VIDEO),
    (b"WAVE", 8, "a sound file (WAV)", "send an image"),
    (b"\x1aE\xdf\xa3", 0, "a video (Matroska or WebM)", _VIDEO),
    (b"\0\0\1\xba", 0, "a video (MPEG)", _VIDEO),
    (b"FLV\1", 0, "a video (FLV)", _VIDEO),
    (b"0&\xb2u\x8ef\xcf\x11", 0, "a video (WMV)", _VIDEO),
    (b"PK\3\4", 0, "a ZIP archive", _UNPACK),
    (b"\x1f\x8b", 0, "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", _UNPACK),
    (b"Rar!", 0, "a RAR archive", _UNPACK),
    (b"/9j/", 0, "a JPEG encoded in base64 twice", "encode the image in base64 only once"),
    (b"iVBORw0KGgo", 0, "a PNG encoded in base64 twice", "encode the image in base64 only once"),
    (b"data:image/", 0, "a data: URL encoded in base64", "encode the image in base64 only once"),
    (b"version https://git-lfs", 0, "a Git LFS pointer instead of an image", "run `git lfs pull`"),
)
# For text after white space: (pattern, name of the format, what to do)
_TEXTS = (
    (rb"(?:<\?xml|<!--|<!doctype svg|<svg).*?<svg|<svg", "an SVG drawing", "export it as PNG"),
    (rb"(?:<!doctype html|<html|<head|<body)", "an HTML page", "check the URL it was downloaded from"),
    (rb"<\?xml|<error>", "an XML document", "check the URL it was downloaded from"),
    (rb"[{\[]\s*[\"{\[\]}]", "JSON text", "send the image's bytes"),
    (rb"(?-i:P[1-7])[\s#]", "a PNM image (PBM, PGM, PPM)", _CONVERT),
)

_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# ISO/IEC 14496-12, section 4.3; brands: https://mp4ra.org/registered-types/brands
_BRANDS = (
    (frozenset((b"crx ",)), "a camera raw file (CR3)", _RAW),
    (frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")), "a HEIC image", _CONVERT),
    (frozenset((b"jxl ",)), "a JPEG XL image", _CONVERT),
    (frozenset((b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"vvic", b"j2ki", b"jpeg")), "a HEIF image", _CONVERT),
    (frozenset((b"qt  ",)), "a video (QuickTime)", _VIDEO),
)
_VIDEO_BRAND = re.compile(rb"iso[m0-9]|mp4[0-9]|avc1|hvc1|av01|M4[AVBP] |3g[gp2]|f4v |dash|cmf|mmp4|MSNV|XAVC")

# Pillow's libtiff supports these. Other compressions of TIFF: https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_TIFF_CODINGS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000))
_TIFF_OTHER_CODINGS = {
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT RLE",
    32809: "ThunderScan",
    32908: "a Pixar codec",
    32909: "a Pixar codec",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG for DNG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_WIDTHS = {1: "B", 2: "B", 3: "H", 4: "L", 7: "B", 16: "Q"}  # BYTE, ASCII, SHORT, LONG, UNDEFINED, LONG8
# Tags of a TIFF: TIFF 6.0, TIFF/EP, DNG 1.7
_BITS, _COMPRESSION, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _SAMPLE_FORMAT, _DNG_VERSION = 258, 259, 262, 271, 330, 339, 50706
_SUBFILE_TYPE, _FILL_ORDER, _SAMPLES = 254, 266, 277
_TAGS = frozenset(
    {_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _MAKE}
    | {_SAMPLES, _SUB_IFDS, _SAMPLE_FORMAT, _DNG_VERSION}
)
_RAW_MAKERS = {b"NIKON": "NEF", b"SONY": "ARW", b"PENTAX": "PEF", b"RICOH": "PEF", b"SAMSUNG": "SRW", b"Canon": "CR2"}
_SENSOR_DATA = (32803, 34892)  # PhotometricInterpretation of undeveloped sensor data
_SAMPLE_FORMATS = {
    1: "unsigned integers",
    2: "signed integers",
    3: "floats",
    5: "complex integers",
    6: "complex floats",
}


def is_avif(data: bytes) -> bool:
    """Tell whether a file that starts with an `ftyp` box is an AVIF, by its brands."""
    return not _AVIF_BRANDS.isdisjoint(_brands(data))


def holds_thumbnail(data: bytes) -> bool:
    """Tell whether a TIFF is a camera raw file whose first image is only a thumbnail. Raises RequestError."""
    tags = _tags(data)
    kind = _raw_kind(data, tags)
    return kind == "CR2" or (kind != "" and tags.get(_SUBFILE_TYPE, (0,))[0] & 1 == 1)


def describe_file(data: bytes, name: str) -> str:
    """Return the message for a file that cannot be decoded, "" for a damaged image of a supported format.

    name: the supported format that its first bytes match, "" for none.
    """
    if name == "JPEG":
        what, remedy = _jpeg(data), "save it as a baseline JPEG or as PNG"
    elif name == "TIFF":
        what, remedy = _tiff(data)
    elif name == "PNG" and data[12:16] == b"CgBI":
        what, remedy = "a PNG in Xcode's iOS format", "send the original PNG"
    elif name:
        what, remedy = "", ""
    else:
        what, remedy = _other(data)
    return f"the image is {what}, which is not supported: {remedy}" if what else ""


def _other(data: bytes) -> tuple[str, str]:
    if data[4:8] == b"ftyp":
        return _iso_media(_brands(data))
    for magic, offset, what, remedy in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return what, remedy
    head = data[:MAX_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what, remedy in _TEXTS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return what, remedy
    return "", ""


def _brands(data: bytes) -> tuple[bytes, ...]:
    """Return the brands of an `ftyp` box, the major brand first."""
    stop = min(int.from_bytes(data[:4], "big"), MAX_HEAD, len(data))
    return (data[8:12], *(data[at : at + 4] for at in range(16, stop - 3, 4)))


def _iso_media(brands: tuple[bytes, ...]) -> tuple[str, str]:
    for names, what, remedy in _BRANDS:
        if not names.isdisjoint(brands):
            return what, remedy
    if any(_VIDEO_BRAND.match(brand) for brand in brands):
        return "a video (MP4)", _VIDEO
    return "an MP4-based file other than AVIF", _CONVERT


def _jpeg(data: bytes) -> str:
    """Return the unsupported kind of JPEG, "" if there is none: ITU-T T.81, table B.1; T.87 for JPEG-LS."""
    for marker, start, _ in islice(jpeg_segments(data), MAX_PARTS):
        if marker == 0xF7:
            return "a JPEG-LS image"
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision = data[start + 2] if start + 2 < len(data) else 8
            if marker & 3 == 3:
                return "a lossless JPEG" + (f" with {precision} bits per sample" if precision != 8 else "")
            if precision != 8:
                return f"a JPEG with {precision} bits per sample"
            if marker & 7 in (5, 6):
                return "a hierarchical JPEG"
            return "an arithmetic-coded JPEG" if marker > 0xC8 else ""
    return ""


def _tiff(data: bytes) -> tuple[str, str]:
    """Return the unsupported kind of the first image of a TIFF, "" if there is none, and what to do."""
    tags = _tags(data)
    if raw := _raw_kind(data, tags):
        return f"a camera raw file ({raw})", _RAW
    coding = tags.get(_COMPRESSION, (1,))[0]
    if coding not in _TIFF_CODINGS:
        return f"a TIFF compressed with {_TIFF_OTHER_CODINGS.get(coding, f'method {coding}')}", _CONVERT
    return _tiff_pixels(data, tags), f"{_CONVERT}, with 8 bits per sample"


def _tiff_pixels(data: bytes, tags: dict[int, tuple[int, ...]]) -> str:
    """Return the pixel format of a TIFF if Pillow does not support it, otherwise ""."""
    from PIL.TiffImagePlugin import OPEN_INFO  # already imported when the file was opened

    kind, bits = tags.get(_SAMPLE_FORMAT, (1,)), tags.get(_BITS, (1,))
    kind = kind[:1] if len(set(kind)) == 1 else kind
    samples_per_pixel = min(tags.get(_SAMPLES, (1,))[0], MAX_NUMBERS)
    bits = bits * samples_per_pixel if len(bits) == 1 else bits[:samples_per_pixel]
    photometric = tags.get(_PHOTOMETRIC, (0,))[0]
    forms = {key[1:4] + key[4:5] for key in OPEN_INFO if key[0] == data[:2]}
    if (photometric, kind, tags.get(_FILL_ORDER, (1,))[0], bits) in forms or not bits:
        return ""
    samples = f"{len(bits)} x {bits[0]} bits" if len(bits) > 1 else f"{bits[0]} bits"
    numbers = ("big-endian " if data[:2] == b"MM" else "") + _SAMPLE_FORMATS.get(kind[0], "unknown number format")
    return f"a TIFF with {samples} per pixel ({numbers}, photometric interpretation {photometric})"


def _raw_kind(data: bytes, tags: dict[int, tuple[int, ...]]) -> str:
    if _DNG_VERSION in tags:
        return "DNG"
    if data[8:10] == b"CR":
        return "CR2"
    maker = bytes(value & 0xFF for value in tags.get(_MAKE, ()))  # a hostile file can contain larger numbers
    kind = next((kind for name, kind in _RAW_MAKERS.items() if maker.startswith(name)), "")
    if kind and (_SUB_IFDS in tags or tags.get(_COMPRESSION, (1,))[0] not in _TIFF_CODINGS):
        return kind
    return kind or "unknown camera" if tags.get(_PHOTOMETRIC, (0,))[0] in _SENSOR_DATA else ""


def _tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the first numbers, or the bytes of the text, of the tags used here."""
    order, number, *_ = tiff_forms(data)
    found: dict[int, tuple[int, ...]] = {}
    for tag, kind, count, content in tiff_entries(data, _TAGS).values():
        if kind in _WIDTHS:
            form = f"{order}{min(count, MAX_NUMBERS)}{_WIDTHS[kind]}"
            if count * struct.calcsize(order + _WIDTHS[kind]) > len(content):
                (offset,) = struct.unpack(order + number, content)
                content = data[offset : offset + struct.calcsize(form)]
            if len(content) >= struct.calcsize(form) and count:
                found[tag] = struct.unpack_from(form, content)
    return found
