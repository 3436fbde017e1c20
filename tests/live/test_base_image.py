"""The stand-in for Lambda's base image behaves like the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from devtools.base_image import ensure_base_image
from devtools.containers import AS_LAMBDA, running
from devtools.rie import SHA256, ensure_rie


@pytest.mark.parametrize("arguments", [[], ["app.handler", "another"]])
def test_the_entrypoint_takes_one_argument(engine: Any, base_image: str, label: str, arguments: list[str]) -> None:
    """Without exactly one handler name, the container exits with status 142."""
    name, value = label.split("=")
    container = engine.containers.run(base_image, arguments, detach=True, labels={name: value})
    try:
        assert container.wait(timeout=30)["StatusCode"] == 142
        assert b"handler name" in container.logs()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(("options", "uid"), [({}, 0), (AS_LAMBDA, 993)], ids=["as root", "as Lambda"])
def test_a_handler_answers(engine: Any, echo_image: str, options: dict[str, Any], uid: int) -> None:
    """A handler answers through the emulator, as Lambda's user on a read-only disk too."""
    with running(engine, echo_image, **options) as function:
        assert function.get("/") == 404
        assert function.invoke({"a": 1})["event"] == {"a": 1}
        assert function.invoke({})["uid"] == uid


def test_an_exception_is_an_answer(engine: Any, echo_image: str) -> None:
    """The emulator returns a handler's exception as the body, and continues."""
    with running(engine, echo_image, **AS_LAMBDA) as function:
        answer = function.invoke({"fail": "no such thing"})
        assert (answer["errorType"], answer["errorMessage"]) == ("ValueError", "no such thing")
        assert function.invoke({"a": 1})["event"] == {"a": 1}


def test_pip_installs_in_a_build(engine: Any, base_image: str, label: str, tmp_path: Path) -> None:
    """`RUN pip install` in a Dockerfile reaches the index as this machine does."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base_image}\nRUN pip install -q --no-deps --target . packaging==26.3\n"
    )
    name, value = label.split("=")
    image, _ = engine.images.build(path=str(tmp_path), labels={name: value}, forcerm=True)
    code = "import packaging, sys; print(packaging.__version__, sys.version_info[:2])"
    said = engine.containers.run(image.id, ["-c", code], entrypoint="python", remove=True)
    assert said.decode().strip() == "26.3 (3, 13)"


def test_it_is_built_once(engine: Any, base_image: str) -> None:
    """An existing stand-in of this version is used."""
    before = engine.images.get(base_image).id
    assert ensure_base_image(engine) == base_image
    assert engine.images.get(base_image).id == before


def test_the_emulator_is_fetched_once_and_checked(rie: Path) -> None:
    """The emulator has the known SHA-256 and is downloaded once."""
    made = rie.stat().st_mtime_ns
    assert ensure_rie() == rie
    assert rie.stat().st_mtime_ns == made
    assert hashlib.sha256(rie.read_bytes()).hexdigest() == SHA256["x86_64"]
