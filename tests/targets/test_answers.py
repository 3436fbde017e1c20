"""The results of invocations, as recorded from Lambda and its emulator, and images that are too large to send."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, ImageChops, ImageStat

from lambda_src.settings import MAX_PIXELS
from mlinfer.clients.invocation import MAX_REQUEST_BYTES, read_answer
from mlinfer.errors import ImageError, RemoteError
from mlinfer.targets.payload import reduce

from ..pictures import encoded, gradient, waves

ID = "RequestId: 8f507cfc-example Error: "
# Of the emulator 1.x in AWS's image, and of Lambda: (body, code, what the message tells)
FAILURES = {
    "exception": (
        {"errorMessage": "no model", "errorType": "ModelError", "requestId": "8f", "stackTrace": ["  File ..."]},
        "function_failed",
        "ModelError: no model",
    ),
    "exception text inside another message": (
        {"errorMessage": "could not parse: Error: bad", "errorType": "ValueError"},
        "function_failed",
        "ValueError: could not parse: Error: bad",
    ),
    "exception without a message": ({"errorMessage": "", "errorType": "KeyError"}, "function_failed", "KeyError"),
    "memory error": ({"errorMessage": "", "errorType": "MemoryError"}, "out_of_memory", "out of memory"),
    "timeout of the emulator": (
        "Task timed out after 3.00 seconds",
        "function_timeout",
        "timed out after 3.00 seconds",
    ),
    "timeout of Lambda": (
        {"errorType": "Sandbox.Timedout", "errorMessage": f"{ID}Task timed out after 3.00 seconds"},
        "function_timeout",
        "timed out after 3.00 seconds",
    ),
    "timeout of Lambda, older": (
        {"errorMessage": "2026-11-22T18:00:00.000Z 8f507cfc Task timed out after 3.00 seconds"},
        "function_timeout",
        "timed out after 3.00 seconds",
    ),
    "killed": (
        {"errorType": "Runtime.ExitError", "errorMessage": f"{ID}Runtime exited with error: signal: killed"},
        "out_of_memory",
        "out of memory",
    ),
    "out of memory": (
        {"errorType": "Runtime.OutOfMemory", "errorMessage": f"{ID}Runtime exited with error: signal: killed"},
        "out_of_memory",
        "out of memory",
    ),
    "exit": (
        {"errorType": "Runtime.ExitError", "errorMessage": f"{ID}Runtime exited with error: exit status 3"},
        "function_crashed",
        "exit status 3",
    ),
    "segmentation fault": (
        {
            "errorType": "Runtime.ExitError",
            "errorMessage": f"{ID}Runtime exited with error: signal: segmentation fault",
        },
        "function_crashed",
        "segmentation fault",
    ),
    "exception about a kill": (
        {"errorType": "OSError", "errorMessage": "Task timed out, signal: killed"},
        "function_failed",
        "OSError: Task timed out, signal: killed",
    ),
    "import": (
        {"errorType": "Runtime.ImportModuleError", "errorMessage": "Unable to import module 'lambda_src.handler'"},
        "function_not_loaded",
        "Unable to import module",
    ),
    "architecture": (
        {
            "errorType": "Runtime.InvalidEntrypoint",
            "errorMessage": f"{ID}fork/exec /lambda-entrypoint.sh: exec format error",
        },
        "function_not_loaded",
        "exec format error",
    ),
    "answer": (
        {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": "Response payload size exceeded maximum"},
        "answer_too_large",
        "6 MB",
    ),
    "nothing": ("", "function_crashed", "crashed"),
    "null": ("null", "function_failed", "null"),
    "a list": ("[1]", "function_failed", "[1]"),
    "a page": ("<html>502 Bad Gateway</html>", "function_failed", "502 Bad Gateway"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_told_apart(name: str) -> None:
    """Each way in which an invocation fails has its own code and message."""
    body, code, told = FAILURES[name]
    payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with pytest.raises(RemoteError) as caught:
        read_answer(payload, "the function")
    assert (caught.value.code, caught.value.exit_code) == (code, 4)
    assert "the function" in str(caught.value)
    assert told in str(caught.value)
    assert caught.value.hint


def test_answers_are_passed_on() -> None:
    """The handler's answers, also to mistakes, are no failures."""
    for answer in ({"statusCode": 200, "body": {"label": "cat"}}, {"statusCode": 400, "body": {"error": {}}}):
        assert read_answer(json.dumps(answer).encode(), "the function") == answer


@pytest.mark.parametrize(("limit", "codec"), [(MAX_REQUEST_BYTES // 4 * 3 - 1024, "PNG"), (900_000, "JPEG")])
@pytest.mark.slow
def test_reduced(limit: int, codec: str) -> None:
    """A reduced image keeps its aspect ratio and gets a shorter side of 1,024 pixels, without loss if that fits."""
    data = encoded(gradient(3000, 2000), "PNG", compress_level=0)
    assert len(data) > limit
    reduced, size = reduce(data, MAX_PIXELS, limit)
    assert len(reduced) <= limit
    assert size == (1536, 1024)
    image = Image.open(io.BytesIO(reduced))
    assert (image.size, image.format) == (size, codec)


def test_reduced_keeps_the_visible_content() -> None:
    """The reduced image looks the same: colours differ only by noise, and rotation is applied."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    plane = Image.linear_gradient("L").resize((2400, 1600)).convert("RGB")
    data = encoded(plane, "JPEG", quality=95, exif=rotated)
    reduced, size = reduce(data, MAX_PIXELS, 10**6)
    assert size == (1024, 1536)
    found = Image.open(io.BytesIO(reduced)).convert("RGB")
    wanted = plane.rotate(-90, expand=True).resize(size)
    difference = max(
        abs(found.getpixel((x, y))[0] - wanted.getpixel((x, y))[0])  # type: ignore[index]
        for x in range(20, size[0], 50)
        for y in range(20, size[1], 50)
    )
    assert difference <= 3


@pytest.mark.slow
def test_reduced_does_not_shift() -> None:
    """A JPEG whose sides are not divisible by the fast decode's scale does not shift."""
    plane = waves(4105, 4099, 240)
    reduced, size = reduce(encoded(plane, "JPEG", quality=90), MAX_PIXELS, 10**7)
    found, wanted = Image.open(io.BytesIO(reduced)).convert("L"), plane.resize(size)
    assert ImageStat.Stat(ImageChops.difference(found, wanted)).mean[0] <= 1


@pytest.mark.parametrize("limit", [2_000])
@pytest.mark.slow
def test_images_that_cannot_be_resized(limit: int) -> None:
    """An image that stays over the limit, and a file that is not an image, are refused."""
    with pytest.raises(ImageError) as caught:
        reduce(encoded(gradient(3000, 2000), "JPEG"), MAX_PIXELS, limit)
    assert caught.value.code == "image_too_large"
    with pytest.raises(ImageError) as caught:
        reduce(b"no picture", MAX_PIXELS, limit)
    assert caught.value.code == "invalid_image"
