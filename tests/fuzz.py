"""Send hostile events through the handler: damaged images, broken base64 and JSON, wrong types anywhere.

    python tests/fuzz.py --cases 100000 --seed 0      # one summary; exit code 1 at the first violation
    python tests/fuzz.py --seed 0 --only 4711         # that case again
    python tests/fuzz.py --file picture.tif ...       # these files instead, a JSON line each

A case depends only on the seed and its number (and on the installed encoders). Each must get 200 or a documented 4xx in
the form that its sender expects, and one log line and no other output, within HANG_S seconds and with the process below
LIMIT_MB. After a crash or a hang, the file fuzz-running names the case.
"""

from __future__ import annotations

import argparse
import base64
import copy
import faulthandler
import json
import math
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from lambda_src.events.http import is_http
from lambda_src.service import Service
from lambda_src.settings import Settings
from tests import bombs
from tests.pictures import encoded, gradient, plain

STARTER = ROOT / "mlinfer" / "starter.onnx"
EVENTS = Path(__file__).parent / "data" / "events"
LIMIT_MB = 512
HANG_S = 60.0
DOCUMENTED = {
    "invalid_json": 400,
    "missing_image": 400,
    "invalid_base64": 400,
    "invalid_image": 400,
    "invalid_top_k": 400,
    "image_too_large": 413,
    "unsupported_media_type": 415,
    "method_not_allowed": 405,
    "s3_forbidden": 403,
    "s3_not_found": 404,
}
# A message must not contain paths, memory addresses or code.
LEAK = re.compile(r"0x[0-9a-f]{6}|\.py\b|Traceback|site-packages|" + re.escape(str(ROOT)) + "|" + re.escape(sys.prefix))
SIDES = (0, 1, 2, 3, 15, 16, 255, 256, 4095, 7071, 7072, 16383, 16384, 65535, 65536, 2**24, 2**31 - 1, 2**32 - 1)
NUMBERS = (0, 1, 2, 4, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

Make = Callable[[random.Random], object]


class ViolationError(Exception):
    """An answer that the contract does not allow."""


# Pictures


@cache
def sound_pictures() -> tuple[bytes, ...]:
    """Return small valid images of every format, mode and coding."""
    films: dict[str, Any] = {"save_all": True, "append_images": [plain(size=(24, 18))], "duration": 100}
    turned = bombs.exif([(0x0112, 3, 1, 6)])
    tags = {"exif": b"Exif\0\0" + turned}
    pictures = [bombs.small("JPEG", mode, **options) for mode in ("RGB", "L", "CMYK") for options in ({}, tags)]
    pictures += [bombs.small("JPEG", mode, progressive=True) for mode in ("RGB", "L", "CMYK")]
    pictures += [bombs.small("JPEG", quality=95, subsampling=0, restart_marker_rows=1)]
    pictures += [bombs.small("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")]
    pictures += [bombs.small("PNG", "P", transparency=0), bombs.small("PNG", **films), bombs.small("PNG", exif=turned)]
    pictures += [bombs.small("WEBP", mode, lossless=lossless) for mode in ("RGB", "RGBA") for lossless in (False, True)]
    pictures += [bombs.small("WEBP", **films), bombs.small("WEBP", exif=turned)]
    pictures += [bombs.small("GIF"), bombs.small("GIF", **films), bombs.small("GIF", transparency=0, interlace=0)]
    pictures += [bombs.small("BMP", mode) for mode in ("RGB", "RGBA", "L", "P", "1")]
    pictures += [bombs.bmp(24, 18, bombs.RLE8, b"\x18\x40\0\0" * 18 + b"\0\1")]
    pictures += [bombs.bmp(24, 18, bombs.RLE4, b"\x18\x4a\0\0" * 18 + b"\0\1")]
    modes = ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "I", "F", "LAB", "YCbCr")
    codings = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    pictures += [bombs.small("TIFF", mode, compression=coding) for mode in modes for coding in codings]
    pictures += [bombs.small("TIFF", compression=coding) for coding in ("jpeg", "lzma", "zstd")]
    pictures += [bombs.small("TIFF", "1", compression=coding) for coding in ("group3", "group4", "tiff_ccitt")]
    pictures += [
        bombs.small("TIFF", **films),
        bombs.small("TIFF", big_tiff=True),
        bombs.small("TIFF", tiffinfo={274: 6}),
    ]
    pictures += [bombs.tiled_tiff(24, 18, 16, 16), bombs.tiled_tiff(24, 18, 16, 16, order=">")]
    pictures += [bombs.small("AVIF", mode, speed=10, max_threads=1) for mode in ("RGB", "RGBA", "L")]
    pictures += [
        bombs.small("AVIF", speed=10, subsampling="4:4:4", exif=turned),
        bombs.small("AVIF", speed=10, **films),
    ]
    return (*pictures, encoded(gradient(300, 200), "JPEG"), (ROOT / "examples" / "cat.jpg").read_bytes())


@cache
def large_pictures() -> tuple[bytes, ...]:
    """Return images near or over the limits. They are encoded in another process, because encoders need much memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_encode_large)


def _encode_large() -> tuple[bytes, ...]:
    wide, tall = gradient(30, 20).resize((5000, 3000)), gradient(20, 30).resize((700, 9000))
    pictures = [encoded(wide, "JPEG", quality=10, progressive=True), encoded(tall, "PNG"), encoded(wide, "GIF")]
    pictures += [encoded(plain(size=(4400, 4400)), "WEBP", lossless=True, method=0)]
    pictures += [encoded(plain(size=(4000, 4000)), "AVIF", speed=10, max_threads=1)]
    pictures += [encoded(tall.convert("F"), "TIFF", compression="tiff_adobe_deflate")]
    pictures += [bombs.tiled_tiff(10, 10, 40000, 40000), bombs.overlapping_tiff(1000, 60000)]
    pictures += [bombs.many_scans(bombs.small("JPEG", progressive=True), 3000)]
    pictures += [bombs.many_exifs(bombs.small("JPEG"), 5, 2000)]
    pictures += [bombs.bmp(60000, 800, bombs.RLE8, b"\1\1\0\0" * 800)]
    return (*pictures, (Path(__file__).parent / "data" / "hostile" / "frame_16384.avif").read_bytes())


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return a picture with one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        damage: Callable[[random.Random, bytes], bytes] = rng.choice(DAMAGES)
        data = damage(rng, data)
    return data


def _truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(rng: random.Random, data: bytes) -> bytes:
    end = len(data) if rng.random() < 0.5 else min(len(data), 200)  # headers matter most
    at = rng.randrange(end + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16))) + data[at:][rng.choice((1, 2, 4, 16)) :]


def _renumbered(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(min(len(data), 600) + 1)
    number: int = min(rng.choice(NUMBERS), 256**size - 1)
    return data[:at] + number.to_bytes(size, "big" if rng.random() < 0.5 else "little") + data[at + size :]


def _spliced(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(sound_pictures())
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _repeated(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 4, 12, 100)))
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 50, 1000)) + data[stop:]


def _removed(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 12, 100)) :]


def _resized(rng: random.Random, data: bytes) -> bytes:
    try:
        return bombs.sized(data, rng.choice(SIDES), rng.choice(SIDES))
    except Exception:  # too damaged already to hold a size
        return data


DAMAGES = (_truncated, _flipped, _overwritten, _renumbered, _spliced, _repeated, _removed, _resized)


def damaged_picture(rng: random.Random) -> object:
    """Create an event with a small, damaged image."""
    return event_of(rng, damaged(rng, rng.choice(sound_pictures())))


def lying_picture(rng: random.Random) -> object:
    """Create an event with an image whose header claims another size, often a huge one."""
    return event_of(rng, _resized(rng, rng.choice(sound_pictures())))


def large_picture(rng: random.Random) -> object:
    """Create an event with a large image or a bomb, valid or damaged."""
    data = rng.choice(large_pictures())
    return event_of(rng, data if rng.random() < 0.3 else damaged(rng, data))


def random_bytes(rng: random.Random) -> object:
    """Create an event with random bytes after an image's first bytes."""
    head = rng.choice(sound_pictures())[: rng.choice((0, 3, 4, 12, 16, 32))]
    return event_of(rng, head + rng.randbytes(rng.choice((0, 1, 10, 100, 5000))))


def event_of(rng: random.Random, data: bytes) -> object:
    """Return an event of any kind with these bytes as its image."""
    text = base64.b64encode(data).decode()
    shape = rng.randrange(4)
    if shape < 2:
        return {"image": text, "top_k": rng.choice((1, 5, 1000))} if shape else {"image": text}
    event = rng.choice(http_events())
    if shape == 2:
        return event | {"body": text, "isBase64Encoded": True}
    return with_json(event, json.dumps({"image": text}))


# Text


def broken_base64(rng: random.Random) -> object:
    """Create an event with almost valid base64."""
    text = base64.b64encode(rng.choice(sound_pictures())).decode()
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(TEXTS) + text[at + rng.choice((0, 0, 1, 2, 3)) :]
    if rng.random() < 0.2:
        text = rng.choice(
            (text.strip("="), text + "=", "data:image/png;base64," + text, text.replace("A", "\n"), text * 3)
        )
    if rng.random() < 0.5:
        return {"image": text}
    return rng.choice(http_events()) | {"body": text, "isBase64Encoded": rng.random() < 0.8}


TEXTS = (
    "",
    " ",
    "\n",
    "=",
    "==",
    "-",
    "_",
    "\0",
    "é",
    "\u2028",
    "\ud800",
    "\U0001f600",
    "A",
    "!" * 50,
    " " * 5000,
    "%2B",
    "\ufeff",
)


def broken_json(rng: random.Random) -> object:
    """Create an HTTP event with broken, huge, deep or odd JSON."""
    text = rng.choice(JSONS)(rng)
    if rng.random() < 0.3 and len(text) < 10**5:
        text = text[: rng.randrange(len(text) + 1)] + rng.choice(TEXTS) + text[rng.randrange(len(text) + 1) :]
    event = with_json(rng.choice(http_events()), text)
    if rng.random() < 0.3:
        raw = text.encode("utf-8", "surrogatepass")
        raw = _flipped(rng, raw) if rng.random() < 0.5 else raw
        return event | {"body": base64.b64encode(raw).decode(), "isBase64Encoded": True}
    return event


def _json_of_value(rng: random.Random) -> str:
    fields = {rng.choice(("image", "s3", "top_k", "x")): shallow(rng) for _ in range(rng.randrange(4))}
    return json.dumps(fields)


JSONS: tuple[Callable[[random.Random], str], ...] = (
    _json_of_value,
    _json_of_value,
    _json_of_value,
    lambda rng: rng.choice(("[", '{"image":', "[[],", '{"image":[')) * rng.choice((10, 900, 1000, 100_000)),
    lambda rng: (lambda n: '{"image":' + "[" * n + "]" * n + "}")(rng.choice((10, 300, 900, 990, 5000))),
    lambda rng: '{"image": "", "top_k": ' + "9" * rng.choice((10, 20, 400, 4300, 4301, 5000, 200_000)) + "}",
    lambda rng: (
        f'{{"image": "", "top_k": {rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "-0", "1.0", "1e2"))}}}'
    ),
    lambda rng: (
        '{"s3": "'
        + rng.choice(("\\ud800", "\\u0000", "\ud800", "\\uZZZZ", "s3://\\ud800/k", "s3://b/" + "k" * 5000))
        + '"}'
    ),
    lambda rng: rng.choice(
        ("", " ", "null", "true", "0", '""', "[]", "{}", "\ufeff{}", "'x'", "{'image': 1}", "{,}", "\0")
    ),
    lambda rng: "[" + "{}," * rng.choice((10, 100_000)) + "0]",
    lambda rng: "{" + ",".join(f'"{i}": {i}' for i in range(rng.choice((5, 20_000)))) + "}",
    lambda rng: '{"image": "' + "A" * rng.choice((3, 4, 1_000_000)) + '"}',
)


# Types


def wrong_types(rng: random.Random) -> object:
    """Create a direct event with a value of any type in any place."""
    if rng.random() < 0.2:
        return value(rng)
    event: dict[str, object] = {"image": base64.b64encode(rng.choice(sound_pictures())).decode()}
    for _ in range(rng.choice((1, 1, 2, 3))):
        event[rng.choice(("image", "s3", "top_k", "requestContext", "body", "httpMethod", "headers"))] = value(rng)
    if rng.random() < 0.2:
        event.pop("image", None)
    return event


def wrong_http(rng: random.Random) -> object:
    """Create an HTTP event with values of any type anywhere in its tree, or with a part missing."""
    event: Any = copy.deepcopy(rng.choice(http_events()))
    event["body"] = base64.b64encode(rng.choice(sound_pictures())).decode()
    if rng.random() < 0.3:
        event = with_json(event, _json_of_value(rng))
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(event))
        # Half of the changes go where the handler looks.
        known = [place for place in places if place[1] in READ]
        holder, key = rng.choice(known if known and rng.random() < 0.5 else places)
        if rng.random() < 0.25:
            holder.pop(key)
        elif rng.random() < 0.2 and isinstance(holder, dict):
            holder[rng.choice((*READ, str(key).upper()))] = holder[key]
        else:
            holder[key] = value(rng)
    return event


READ = (
    "requestContext",
    "http",
    "method",
    "httpMethod",
    "headers",
    "multiValueHeaders",
    "content-type",
    "body",
    "isBase64Encoded",
    "queryStringParameters",
    "multiValueQueryStringParameters",
    "top_k",
    "elb",
)


def _places(tree: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list) and len(tree[key]) < 100 and depth < 8:
            yield from _places(tree[key], depth + 1)
    if not tree:
        yield {"": None}, ""


def shallow(rng: random.Random) -> object:
    """Return a value of any type that JSON can hold."""
    kind = rng.randrange(12)
    if kind < 3:
        return rng.choice(
            (None, True, False, 0, 1, -1, 5, 10**9, 2**63, 10**400, 0.0, 1.0, -0.0, 1e308, math.nan, math.inf)
        )
    if kind < 7:
        return rng.choice(
            (*TEXTS, "GET", "POST", "image", "application/json", "5", "s3://bucket/key", "s3://", "x" * 2000)
        )
    if kind < 9:
        return [shallow(rng) for _ in range(rng.randrange(4))]
    if kind < 11:
        return {
            rng.choice(("image", "s3", "top_k", "a", "http", "method", "content-type")): shallow(rng) for _ in range(3)
        }
    return base64.b64encode(rng.choice(sound_pictures())).decode()


def value(rng: random.Random) -> object:
    """Return a value of any type, sometimes one that is hard for Python itself."""
    if rng.random() < 0.8:
        return shallow(rng)
    nested: object = rng.choice(("x", 1, None))
    for _ in range(rng.choice((100, 900, 5000))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return rng.choice(
        (nested, 10**5000, -(10**5000), b"bytes", ("tuple", 1), {1, 2}, object, 1j, [0] * 10000, "é" * 10**5)
    )


@cache
def http_events() -> tuple[dict[str, Any], ...]:
    """Return AWS's own sample HTTP events."""
    return tuple(json.loads(path.read_text()) for path in sorted(EVENTS.glob("*.json")) if path.stem != "direct")


def with_json(event: dict[str, Any], text: str) -> dict[str, Any]:
    """Return an HTTP event with a JSON body."""
    field = "multiValueHeaders" if "multiValueHeaders" in event and "headers" not in event else "headers"
    kind = ["application/json"] if field == "multiValueHeaders" else "application/json"
    headers = {k: v for k, v in (event.get(field) or {}).items() if k.lower() != "content-type"}
    return event | {field: headers | {"content-type": kind}, "body": text, "isBase64Encoded": False}


# Out of a thousand cases
KINDS: tuple[tuple[Make, int], ...] = (
    (damaged_picture, 600),
    (lying_picture, 90),
    (large_picture, 2),
    (random_bytes, 28),
    (broken_base64, 70),
    (broken_json, 70),
    (wrong_types, 70),
    (wrong_http, 70),
)


def case(seed: int, index: int) -> tuple[str, object]:
    """Return the kind and the event of a case."""
    rng = random.Random(f"{seed}/{index}")
    make = rng.choices([make for make, _ in KINDS], [weight for _, weight in KINDS])[0]
    return make.__name__.replace("_", " "), make(rng)


# The contract


class Tester:
    """Calls one service and checks its answers."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._service = Service(Settings(str(STARTER), threads=1), self._lines.append)
        self._service.load()
        # What a C library writes goes past Python's sys.stderr.
        self.stderr = os.fdopen(os.dup(2), "w")
        self._written = tempfile.TemporaryFile()  # noqa: SIM115 as long as the process
        os.dup2(self._written.fileno(), 2)
        sys.excepthook = lambda *error: traceback.print_exception(*error, file=self.stderr)
        self._silent = 0
        self.line: dict[str, Any] = {}

    def ask(self, event: object) -> str:
        """Return the outcome of an event: "ok" or an error's code. Raises ViolationError, or what the handler raised.

        Afterwards `line` is what the handler logged.
        """
        self._lines.clear()
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=self.stderr)
        answer = self._service.answer(event)
        faulthandler.cancel_dump_traceback_later()
        outcome = check_answer(is_http(event), answer)
        check_line(self._lines, outcome)
        self.line = json.loads(self._lines[0])
        size = self._written.seek(0, os.SEEK_END)
        if size > self._silent:
            self._written.seek(self._silent)
            self._silent = size
            raise ViolationError(f"something was written to stderr: {self._written.read()[:500]!r}")
        if peak_mb() > LIMIT_MB:
            raise ViolationError(f"the process took {peak_mb():.0f} MB")
        return outcome


def check_answer(http: bool, answer: dict[str, Any]) -> str:
    """Return the outcome of an answer that follows the contract. Raises ViolationError."""
    json.dumps(answer, allow_nan=False).encode()
    body = json.loads(answer["body"]) if http else answer["body"]
    expected = {"statusCode", "body"} | ({"isBase64Encoded", "headers"} if http else set())
    if set(answer) - {"multiValueHeaders"} != expected - ({"headers"} if "multiValueHeaders" in answer else set()):
        raise ViolationError(f"the answer has the keys {sorted(answer)}")
    if answer["statusCode"] == 200:
        if "predictions" not in body and body.get("status") != "ok":
            raise ViolationError("the answer has no predictions")
        if any(not 0 <= prediction["score"] <= 1 for prediction in body.get("predictions", [])):
            raise ViolationError("a score is no probability")
        return "ok"
    code, message = body["error"]["code"], body["error"]["message"]
    if DOCUMENTED.get(code) != answer["statusCode"]:
        raise ViolationError(f"{answer['statusCode']} {code} is not documented")
    if not (message.isprintable() and message.isascii() and 0 < len(message) <= 200) or LEAK.search(message):
        raise ViolationError(f"the message is long, not printable or tells too much: {message!r}")
    return str(code)


def check_line(lines: list[str], outcome: str) -> None:
    """Check that one line of strict JSON was logged, with that outcome. Raises ViolationError."""

    def refuse(constant: str) -> None:
        raise ViolationError(f"the log line holds {constant}")

    if len(lines) != 1 or "\n" in lines[0] or json.loads(lines[0], parse_constant=refuse)["outcome"] != outcome:
        raise ViolationError(f"the log lines are {lines!r:.500}")
    lines[0].encode()


def peak_mb() -> float:
    """Return the peak memory of this process in MB of 2**20 bytes, as Lambda counts."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return peak / 2**20
    # Linux begins ru_maxrss with what the parent held when it started this process: proc(5) has the process's own.
    with suppress(OSError), open("/proc/self/status") as status:
        peak = min(peak, *(int(line.split()[1]) for line in status if line.startswith("VmHWM:")))
    return peak / 2**10


# The program


def run(seed: int, cases: range) -> int:
    """Run the cases and write the summary. Return the exit code."""
    tester, kinds, outcomes = Tester(), Counter[str](), Counter[str]()
    running, slowest, started = Path("fuzz-running"), (0.0, -1), time.perf_counter()
    for index in cases:
        running.write_text(f"--seed {seed} --only {index}\n")
        kind, event = case(seed, index)
        asked = time.perf_counter()
        try:
            outcomes[tester.ask(event)] += 1
        except Exception as error:
            faulthandler.cancel_dump_traceback_later()
            traceback.print_exception(error, file=tester.stderr)
            return _report(seed, index, kind, event, error)
        slowest = max(slowest, (time.perf_counter() - asked, index))
        kinds[kind] += 1
    seconds = time.perf_counter() - started
    running.unlink()
    lines = [
        f"{len(cases):,} cases of seed {seed} in {seconds:.0f} s ({len(cases) / seconds:.0f} a second): no violation"
    ]
    lines += ["", *(f"  {count:>7,}  {kind}" for kind, count in kinds.most_common()), ""]
    lines += [*(f"  {count:>7,}  {DOCUMENTED.get(code, 200)} {code}" for code, count in outcomes.most_common()), ""]
    lines += [f"peak memory of the process {peak_mb():.0f} MB (limit {LIMIT_MB})"]
    lines += [f"slowest case {slowest[0]:.2f} s (--only {slowest[1]})"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _report(seed: int, index: int, kind: str, event: object, error: BaseException) -> int:
    path = Path(f"fuzz-{seed}-{index}.json")
    try:
        path.write_text(json.dumps(event))
    except (TypeError, ValueError, RecursionError):
        path.write_text("null")  # no JSON can hold it
    sys.stdout.write(f"Violation in case {index}, {kind}: {type(error).__name__}: {error}\n")
    sys.stdout.write(f"The event is in {path.name}. Again: python tests/fuzz.py --seed {seed} --only {index}\n")
    return 1


def ask_about(files: list[Path]) -> int:
    """Send each file as an image and print its outcome, message, seconds and peak memory as one JSON line each."""
    tester = Tester()
    for path in files:
        event = {"image": base64.b64encode(path.read_bytes()).decode()}
        started = time.perf_counter()
        outcome = tester.ask(event)
        seconds = round(time.perf_counter() - started, 3)
        line = {"file": path.name, "outcome": outcome, "message": tester.line.get("message", "")}
        line |= {"seconds": seconds, "peak_mb": round(peak_mb())}
        sys.stdout.write(json.dumps(line) + "\n")
    return 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="INDEX")
    parser.add_argument("--file", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.file:
        return ask_about(arguments.file)
    only = arguments.only
    return run(arguments.seed, range(arguments.cases) if only is None else range(only, only + 1))


if __name__ == "__main__":
    sys.exit(main())
