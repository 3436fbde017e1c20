"""The check of a container image's content before each push: one test per way in which an image can be broken."""

from __future__ import annotations

import gzip
import json
import tarfile

import pytest

from ..images import BASE, CODE, Entry, file, folder, other, saved_image, shared_object, tar_of
from .conftest import Cloud, MlInfer, error_of

TOP = (folder("var"), folder("var/task"))
LINK, HARD_LINK, DEVICE, PIPE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE

BROKEN = {
    "absolute": ([file("/etc/passwd")], "/etc/passwd"),
    "out of the image": ([*TOP, file("var/task/../../x")], "var/task/../../x"),
    "no entry for the folder": ([folder("var"), file("var/lib/x.py")], "var/lib"),
    "unreadable file": ([*TOP, file("var/task/x.py", mode=0o600)], "0600"),
    "unreadable folder": ([folder("var", 0o750), folder("var/task")], "0750"),
    "device": ([*TOP, other("var/task/null", DEVICE)], "var/task/null"),
    "pipe": ([*TOP, other("var/task/pipe", PIPE)], "var/task/pipe"),
    "hard link to nothing": ([*TOP, other("var/task/x.py", HARD_LINK, "etc/passwd")], "etc/passwd"),
    "hard link out of the image": ([*TOP, other("var/task/x.py", HARD_LINK, "../etc/passwd")], "../etc/passwd"),
    "deletion of nothing": ([*TOP, file("var/task/.wh.")], "var/task/.wh."),
    "deletion with content": ([*TOP, file("var/task/.wh.x", b"x")], "var/task/.wh.x"),
    "file in place of a folder": ([*TOP, file("var/task/x"), file("var/task/x/y")], "var/task/x"),
}


def push_error(mlinfer: MlInfer, cloud: Cloud, archive: bytes) -> tuple[int, str, str]:
    """Push an image; return exit code, code and message of the error, after which nothing was sent."""
    cloud.engine.archive = archive
    run = mlinfer("push", "--json")
    assert cloud.engine.pushes == []
    error = error_of(run)
    assert "mlinfer build" in error["hint"]
    return run.code, error["code"], error["message"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_layer_that_lambda_cannot_use(mlinfer: MlInfer, cloud: Cloud, name: str) -> None:
    """A broken entry of a layer of ours is named before anything is sent."""
    entries, named = BROKEN[name]
    code, error, message = push_error(mlinfer, cloud, saved_image(tar_of([*BASE, *CODE]), tar_of(entries)))
    assert (code, error) == (5, "invalid_layer")
    assert named in message


@pytest.mark.parametrize("damage", ["cut off", "invalid entry", "not gzip to its end"])
def test_a_damaged_layer(mlinfer: MlInfer, cloud: Cloud, damage: str) -> None:
    """A layer whose tar or gzip stream is damaged is refused."""
    layer = tar_of([*TOP, file("var/task/x", bytes(range(256)) * 8), file("var/task/y", b"y")])
    damaged = {
        "cut off": layer[: 512 * 4],
        "invalid entry": layer[: 512 * 7] + b"x" * 512 + layer[512 * 8 :],
        "not gzip to its end": gzip.compress(layer)[:-40],
    }[damage]
    assert push_error(mlinfer, cloud, saved_image(tar_of([*BASE, *CODE]), damaged))[:2] == (5, "invalid_layer")


def test_layers_other_than_the_configuration_lists(mlinfer: MlInfer, cloud: Cloud) -> None:
    """An image whose layers are not those of its configuration is refused."""
    archive = saved_image()
    digest = json.loads(_read(archive, "config.json"))["rootfs"]["diff_ids"][0].encode()
    assert push_error(mlinfer, cloud, archive.replace(digest, digest[::-1]))[:2] == (5, "invalid_layer")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"Cmd": ["lambda_src.other.lambda_handler"]}, "lambda_src.other"),
        ({"Cmd": ["lambda_src.handler.other"]}, "lambda_src.handler.other"),
        ({"Cmd": None}, "command"),
        ({"Entrypoint": None}, "entrypoint"),
        ({"Entrypoint": ["/start.sh"]}, "/start.sh"),
        ({"Env": ["MLINFER_MODEL_URI=/var/task/model/model.onnx"]}, "/var/task/model/model.onnx"),
    ],
)
def test_settings_that_name_missing_parts(
    mlinfer: MlInfer, cloud: Cloud, settings: dict[str, object], named: str
) -> None:
    """Entrypoint, command and model must be in the image."""
    code, error, message = push_error(mlinfer, cloud, saved_image(**settings))
    assert (code, error) == (5, "image_incomplete")
    assert named in message


@pytest.mark.parametrize("deletion", [".wh.handler.py", ".wh..wh..opq"])
def test_a_deleted_handler(mlinfer: MlInfer, cloud: Cloud, deletion: str) -> None:
    """A later layer that deletes the handler or all of its folder makes the image incomplete."""
    deleting = tar_of([*CODE[:3], file(f"var/task/lambda_src/{deletion}")])
    archive = saved_image(tar_of([*BASE, *CODE]), deleting)
    assert push_error(mlinfer, cloud, archive)[:2] == (5, "image_incomplete")


def test_a_handler_that_is_not_python(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A handler with a syntax error is refused."""
    broken = [*CODE[:3], file("var/task/lambda_src/handler.py", b"def lambda_handler(:\n")]
    assert push_error(mlinfer, cloud, saved_image(tar_of(BASE), tar_of(broken)))[:2] == (5, "invalid_layer")


def test_a_shared_object_of_another_architecture(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A shared object for another CPU than the function's is refused and named."""
    library: Entry = file("var/task/numpy.cpython-313-aarch64-linux-gnu.so", shared_object(183), 0o755)
    archive = saved_image(tar_of(BASE), tar_of([*CODE, library]))
    code, error, message = push_error(mlinfer, cloud, archive)
    assert (code, error) == (5, "wrong_architecture")
    assert all(word in message for word in (library[0].name, "arm64", "x86_64"))


def test_what_a_base_image_may_contain(mlinfer: MlInfer, cloud: Cloud) -> None:
    """The base image's layers may have private folders, devices, links and files that a later layer replaces."""
    base = [*BASE, folder("usr"), folder("usr/bin"), other("bin", LINK, "usr/bin"), other("console", DEVICE)]
    base += [folder("x"), file("x/y"), file("usr/lib.so", shared_object(62))]
    cloud.engine.archive = saved_image(tar_of(base), tar_of([*CODE, file("x")]), Entrypoint=["/bin/start"])
    assert mlinfer("push").code == 0


def _read(archive: bytes, name: str) -> bytes:
    import io

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        content = tar.extractfile(name)
        assert content
        return content.read()
