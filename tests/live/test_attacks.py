"""Attacks on a running container: each gets a documented answer or error, and the next request works."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devtools.ready import wait_until

from .. import bombs, models
from ..conftest import CAT, ROOT, Run
from ..pictures import encoded, gradient, plain
from .local import Local

MlInfer = Callable[..., Run]

FIND_RUNTIME = """
import pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if b"-m\\0awslambdaric" in process.joinpath("cmdline").read_bytes():
        print(process.name)
"""


@pytest.fixture
def running(mlinfer: MlInfer, local: Local) -> Local:
    """Run the function with the starter model."""
    run = mlinfer("run-local", "--detach")
    assert run.code == 0, run.err
    return local


def cat(mlinfer: MlInfer) -> str:
    """Classify the cat in the container and return the answer."""
    run = mlinfer("predict", "--target", "local", CAT, "--json")
    assert run.code == 0, run
    return str(json.loads(run.out)["label"])


def error_of(run: Run) -> tuple[int, str]:
    """Return the exit code and the error code of a failed prediction."""
    return run.code, json.loads(run.out)["error"]["code"]


def test_a_picture_over_the_limit(mlinfer: MlInfer, running: Local) -> None:
    """predict reduces an image of 8 MB, with a note, and gets an answer."""
    Path("large.png").write_bytes(encoded(gradient(1900, 1500), "PNG", compress_level=0))
    assert Path("large.png").stat().st_size > 8_000_000
    run = mlinfer("predict", "--target", "local", "large.png", "--json")
    assert run.code == 0
    assert [line for line in run.err.splitlines() if "large.png" in line and "1297 x 1024" in line]
    assert json.loads(run.out)["label"]
    assert cat(mlinfer) == "cat"
    assert running.containers[0].attrs["RestartCount"] == 0


def test_a_request_over_the_limit(mlinfer: MlInfer, running: Local) -> None:
    """The emulator cuts off a request of 8 MB that bypasses predict, and the function returns an error."""
    status, body = running.function.post(json.dumps({"image": "A" * 8 * 2**20}).encode())
    assert status in (200, 413, 502)
    assert "errorType" in json.loads(body)
    assert cat(mlinfer) == "cat"


def test_image_bombs(mlinfer: MlInfer, running: Local) -> None:
    """Files that need far more memory than their size are refused one by one."""
    files = {
        "huge.png": bombs.sized(bombs.small("PNG"), 60_000, 60_000),
        "huge.jpg": bombs.sized(bombs.small("JPEG"), 60_000, 60_000),
        "huge.gif": bombs.sized(bombs.small("GIF", "P"), 60_000, 60_000),
        "huge.webp": bombs.sized(bombs.small("WEBP"), 16_000, 16_000),
        "huge.avif": bombs.sized(bombs.small("AVIF"), 60_000, 60_000),
        "huge.tiff": bombs.grey_tiff(60_000, 60_000, bombs.DEFLATE, b"x"),
        "tiles.tiff": bombs.tiled_tiff(100, 100, 40_000, 40_000),
        "huge.bmp": bombs.bmp(60_000, 60_000, bombs.RLE8, b"\0\1"),
        "cut.jpg": CAT.read_bytes()[:2000],
        "none.jpg": b"no picture",
    }
    for name, content in files.items():
        Path(name).write_bytes(content)
    run = mlinfer("predict", "--target", "local", *files, CAT, "--json")
    assert run.code == 5
    *refused, last = map(json.loads, run.out.splitlines())
    assert [line["image"] for line in refused] == list(files)
    assert {line["error"]["code"] for line in refused} == {"image_too_large", "invalid_image"}
    assert last["label"] == "cat"
    assert running.containers[0].attrs["RestartCount"] == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"image": 1}', b"[" * 100_000], ids=lambda b: repr(b[:12])
)
def test_invalid_requests(mlinfer: MlInfer, running: Local, body: bytes) -> None:
    """Invalid events get a documented 4xx or an error document."""
    status, said = running.function.post(body)
    answer = json.loads(said)
    assert status == 200
    assert answer.get("statusCode") == 400 or "errorType" in answer
    assert cat(mlinfer) == "cat"


def test_a_full_tmp(mlinfer: MlInfer, running: Local) -> None:
    """With a full /tmp, images are still classified: the handler writes nothing there."""
    fill = "import errno\ntry:\n    with open('/tmp/fill', 'wb', 0) as f:\n        while True: f.write(bytes(2**20))\nexcept OSError as e: print(errno.errorcode[e.errno])"
    assert running.inside(fill).strip() == "ENOSPC"
    assert cat(mlinfer) == "cat"


def test_memory_of_128_mb(mlinfer: MlInfer, local: Local) -> None:
    """The smallest function answers; an image that does not fit is reported as too little memory."""
    started = mlinfer("run-local", "--detach", "--memory", "128", "--timeout", "60")
    assert started.code == 0, started.err
    assert cat(mlinfer) == "cat"
    Path("wide.png").write_bytes(encoded(plain((9, 9, 9), (7000, 7000)), "PNG"))
    run = mlinfer("predict", "--target", "local", "wide.png", "--json")
    assert error_of(run) == (4, "out_of_memory")
    assert "memory" in json.loads(run.out)["error"]["hint"]
    assert cat(mlinfer) == "cat"
    assert local.containers[0].attrs["HostConfig"]["Memory"] == 128 * 2**20


def test_a_function_that_is_too_slow(mlinfer: MlInfer, local: Local, red: Path, tmp_path: Path) -> None:
    """A timeout is reported with its seconds, and the function answers again."""
    model = models.slow(tmp_path / "slow.onnx")
    assert mlinfer("run-local", "--detach", "--timeout", "2", "--model", model).code == 0
    run = mlinfer("predict", "--target", "local", red, "--json")
    assert error_of(run) == (4, "function_timeout")
    assert "2.00 seconds" in json.loads(run.out)["error"]["message"]
    health = local.function.invoke({"requestContext": {"http": {"method": "GET"}}})
    assert health["statusCode"] == 200


def test_a_container_that_is_killed_during_a_request(mlinfer: MlInfer, local: Local, red: Path, tmp_path: Path) -> None:
    """A container that disappears is reported as a crash, and run-local starts it again."""
    model = models.slow(tmp_path / "slow.onnx")
    assert mlinfer("run-local", "--detach", "--model", model).code == 0
    (container,) = local.containers
    with predicting(red) as asked:
        wait_for_the_request(container)
        container.kill()
        out, err = asked.communicate(timeout=30)
    assert (asked.returncode, json.loads(out)["error"]["code"]) == (4, "container_crashed"), err
    assert error_of(mlinfer("predict", "--target", "local", red, "--json")) == (3, "not_running")
    assert mlinfer("run-local", "--detach").code == 0
    assert cat(mlinfer) == "cat"


def test_a_process_that_is_killed_during_a_request(mlinfer: MlInfer, local: Local, red: Path, tmp_path: Path) -> None:
    """A killed function process is reported as that, and the function answers again."""
    model = models.slow(tmp_path / "slow.onnx")
    assert mlinfer("run-local", "--detach", "--model", model).code == 0
    (container,) = local.containers
    with predicting(red) as asked:
        wait_for_the_request(container)
        local.inside(f"import os, signal\nos.kill({int(local.inside(FIND_RUNTIME))}, signal.SIGKILL)")
        out, err = asked.communicate(timeout=30)
    assert (asked.returncode, json.loads(out)["error"]["code"]) == (4, "out_of_memory"), err
    health = local.function.invoke({"requestContext": {"http": {"method": "GET"}}})
    assert health["statusCode"] == 200


def test_run_local_during_a_prediction(mlinfer: MlInfer, local: Local, red: Path, tmp_path: Path) -> None:
    """run-local waits for a running prediction before its health check."""
    model = models.slow(tmp_path / "slow.onnx")
    assert mlinfer("run-local", "--detach", "--timeout", "3", "--model", model).code == 0
    (container,) = local.containers
    with predicting(red) as asked:
        wait_for_the_request(container)
        again = mlinfer("run-local", "--detach", "--timeout", "3", "--model", model, "--json")
        out, err = asked.communicate(timeout=30)
    assert json.loads(out)["error"]["code"] == "function_timeout", err
    assert json.loads(again.out)["outcome"] == "unchanged"


def test_two_predictions_at_once(running: Local) -> None:
    """Two `mlinfer predict` at once wait for each other, and both get answers."""
    with predicting(CAT, CAT, CAT) as one, predicting(CAT, CAT, CAT) as other:
        said = [process.communicate(timeout=60) for process in (one, other)]
    assert [process.returncode for process in (one, other)] == [0, 0], said
    assert [json.loads(line)["label"] for out, _ in said for line in out.splitlines()] == ["cat"] * 6
    running.containers[0].reload()
    assert running.containers[0].attrs["RestartCount"] == 0


def test_requests_at_once(mlinfer: MlInfer, running: Local) -> None:
    """Parallel requests can stop the emulator; the Engine restarts it, and the next prediction works."""
    event = json.dumps({"image": base64.b64encode(CAT.read_bytes()).decode()}).encode()

    def post(_: int) -> bytes:
        try:
            return running.function.post(event)[1]
        except OSError:
            return b""

    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(post, range(8)))
    assert all(b'"cat"' in answer or b"error" in answer or not answer for answer in answers)
    wait_until(lambda: mlinfer("predict", "--target", "local", CAT).code == 0, "an answer")
    assert mlinfer("run-local", "--detach", "--json").code == 0
    assert cat(mlinfer) == "cat"


def predicting(*pictures: Path) -> subprocess.Popen[str]:
    """Start `mlinfer predict --target local` as a process."""
    command = [sys.executable, "-m", "mlinfer", "predict", "--target", "local", "--json", *map(str, pictures)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_the_request(container: Any) -> None:
    """Wait until a second request reaches the emulator: the first is run-local's."""
    wait_until(lambda: container.logs().count(b"START RequestId") >= 2, "the request")
