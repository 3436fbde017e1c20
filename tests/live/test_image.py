"""`mlinfer build` on the real Engine: contents, cache and failures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Run
from ..models import LABELS, mean_colour
from ..pictures import encoded, plain
from .inspection import INDEX_HOST, inspecting
from .local import Local

MlInfer = Callable[..., Run]

PACKAGES = {"numpy", "onnxruntime", "PIL"}
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
WALK = """
import json, os
print(json.dumps([os.path.join(folder, name) for top in ("/var/task", "/build", "/root", "/tmp")
                  for folder, _, names in os.walk(top) for name in names]))
"""


@pytest.fixture
def image(mlinfer: MlInfer, local: Local) -> dict[str, Any]:
    """Build the image, or find it, and return the document of `build --json`."""
    run = mlinfer("build", "--json")
    assert run.code == 0, run.err
    document: dict[str, Any] = json.loads(run.out)
    assert local.project in document["tag"]
    return document


def python(engine: Any, image: str, *arguments: str) -> tuple[str, str]:
    """Run the image's Python as Lambda's user; return its stdout and stderr."""
    container = engine.containers.create(image, list(arguments), entrypoint="/var/lang/bin/python", user="993:990")
    try:
        container.start()
        assert container.wait(timeout=60)["StatusCode"] == 0, container.logs()
        return container.logs(stderr=False).decode(), container.logs(stdout=False).decode()
    finally:
        container.remove(force=True)


def build_from(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mlinfer build --json` of another copy of the package, in a new process."""
    command = [sys.executable, "-m", "mlinfer", "build", "--json", *arguments]
    environment = os.environ | {"PYTHONPATH": str(package)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# Contents


def test_it_contains_only_what_the_handler_imports(local: Local, image: dict[str, Any]) -> None:
    """Above the base are only the handler, its three packages and the model's folder."""
    files = json.loads(python(local.engine, image["tag"], "-c", WALK)[0])
    assert all(name.startswith("/var/task/") for name in files)
    names = {name.split("/")[3] for name in files}
    shared = {"numpy.libs", "pillow.libs"}
    assert {name for name in names if not name.endswith(".dist-info")} == {"lambda_src", *PACKAGES, *shared}
    assert len([name for name in names if name.endswith(".dist-info")]) == len(PACKAGES)
    assert not [name for name in files if "/tests/" in name or name.endswith((".pyi", ".onnx"))]


def test_byte_code_is_in_it(local: Local, image: dict[str, Any]) -> None:
    """Every module has byte-code, and a start compiles none."""
    files = set(json.loads(python(local.engine, image["tag"], "-c", WALK)[0]))
    sources = [Path(name) for name in files if name.endswith(".py")]
    compiled = [str(path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc") for path in sources]
    assert len(sources) > 100
    assert set(compiled) <= files
    start = "import lambda_src.s3.trust, lambda_src.s3.credentials, lambda_src.s3.signing, lambda_src.inference.classifier, lambda_src.handler"
    said = python(local.engine, image["tag"], "-v", "-c", start)[1]
    loaded = [line for line in said.splitlines() if line.startswith("# code object from '/var/task/")]
    assert len(loaded) > 50
    assert all(".pyc'" in line for line in loaded)


def test_its_settings(local: Local, image: dict[str, Any]) -> None:
    """The handler is set, telemetry is off, home and caches are in /tmp, and no model or secret is set."""
    config = local.engine.images.get(image["tag"]).attrs["Config"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert config["Cmd"] == ["lambda_src.handler.lambda_handler"]
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert (environment["HOME"], environment["XDG_CACHE_HOME"]) == ("/tmp", "/tmp/.cache")
    assert environment["MLINFER_MODEL_URI"] == ""
    assert not [name for name in environment if name.startswith("AWS_")]


def test_every_format_is_answered(mlinfer: MlInfer, local: Local, tiny_model: Path) -> None:
    """The container reads every documented image format."""
    assert mlinfer("run-local", "--detach", "--model", tiny_model).code == 0
    for codec in FORMATS:
        picture = base64.b64encode(encoded(plain((250, 4, 3)), codec)).decode()
        answer = local.function.invoke({"image": picture})
        assert (codec, answer["statusCode"], answer["body"].get("label")) == (codec, 200, "red")


# Cache


def test_the_document(mlinfer: MlInfer, local: Local, image: dict[str, Any]) -> None:
    """`--json` gives name, architecture, size and layers, lowest first; without it, stdout is the tag."""
    attributes = local.engine.images.get(image["tag"]).attrs
    assert (image["id"], image["bytes"], image["arch"]) == (attributes["Id"], attributes["Size"], "x86_64")
    assert image["tag"].startswith(f"mlinfer/{local.project}:")
    assert list(image["layers"]) == ["dependencies", "model", "code"]
    assert image["layers"]["dependencies"] > 10_000_000
    assert image["layers"]["model"] == 0
    assert 10_000 < image["layers"]["code"] < 1_000_000
    assert mlinfer("build").out == f"{image['tag']}\n"


def test_the_second_build_does_nothing(mlinfer: MlInfer, local: Local, image: dict[str, Any]) -> None:
    """An unchanged image is not built again, with a note."""
    made = local.engine.images.get(image["tag"]).attrs["Created"]
    again = mlinfer("build", "--json")
    assert again.code == 0
    assert json.loads(again.out) == image | {"outcome": "unchanged"}
    assert "Unchanged" in again.err
    assert local.engine.images.get(image["tag"]).attrs["Created"] == made


def test_layers_do_not_depend_on_the_build_time(mlinfer: MlInfer, local: Local, image: dict[str, Any]) -> None:
    """A build without cache gives the same layers, so that a push sends nothing."""
    before = local.layers(image["tag"])
    again = mlinfer("build", "--no-cache", "--json")
    assert (again.code, json.loads(again.out)["outcome"]) == (0, "created")
    assert json.loads(again.out)["id"] != image["id"]
    assert local.layers(image["tag"]) == before


def test_a_code_change_rebuilds_only_the_last_layer(local: Local, image: dict[str, Any], package: Path) -> None:
    """A change in lambda_src changes the tag and only the last layer."""
    with (package / "lambda_src" / "errors.py").open("a") as file:
        file.write("\n# changed\n")
    run = build_from(package)
    assert run.returncode == 0, run.stderr
    changed = json.loads(run.stdout)
    before, after = local.layers(image["tag"]), local.layers(changed["tag"])
    assert changed["tag"] != image["tag"]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_a_model_in_the_image(mlinfer: MlInfer, local: Local, image: dict[str, Any], tiny_model: Path) -> None:
    """With model source image, the model is a layer between dependencies and code."""
    run = mlinfer("build", "--json", "--model-source", "image", "--model", tiny_model)
    assert run.code == 0, run.err
    built = json.loads(run.out)
    without, within = local.layers(image["tag"]), local.layers(built["tag"])
    assert within[:-2] == without[:-2]
    assert within[-2] != without[-2]
    assert within[-1] == without[-1]
    assert built["layers"]["model"] == tiny_model.stat().st_size
    assert mlinfer("run-local", "--detach", "--model-source", "image", "--model", tiny_model).code == 0
    (container,) = local.containers
    assert container.attrs["Mounts"] == []
    health = json.loads(local.function.invoke({"requestContext": {"http": {"method": "GET"}}})["body"])
    assert health["model"] == {
        "name": "tiny",
        "sha256": hashlib.sha256(tiny_model.read_bytes()).hexdigest(),
        "labels": len(LABELS),
    }


def test_golden_text(
    mlinfer: MlInfer, local: Local, golden_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """build shows what it made, and writes the image's tag."""
    monkeypatch.setenv("COLUMNS", "200")
    model = mean_colour(Path("golden.onnx"), name="golden")  # which no other test puts into an image
    run = mlinfer("build", "--model-source", "image", "--model", model)
    masked = [text.replace(local.project, "PROJECT") for text in (run.out, run.err)]
    golden_text("build", Run(run.code, *masked), figures=True)


@pytest.mark.usefixtures("local")
def test_the_log_is_shown_when_asked_for(package: Path) -> None:
    """`--verbose` prints the Engine's log to stderr; stdout has only the document."""
    with (package / "lambda_src" / "errors.py").open("a") as file:
        file.write("\n# changed once more\n")
    run = build_from(package, "--verbose")
    assert run.returncode == 0, run.stderr
    assert "Step 1/" in run.stderr
    assert json.loads(run.stdout)["outcome"] == "created"


# Behind a proxy that inspects TLS


def test_a_proxy_that_inspects_tls(
    local: Local, package: Path, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip in the build uses the proxy and trusts --ca-bundle; the image, its history and its tag contain neither."""
    with inspecting(gateway, tmp_path) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        (package / "docker" / "requirements.txt").write_text(proxy.requirement)
        refused = build_from(package)
        error = json.loads(refused.stdout)["error"]
        assert (refused.returncode, error["code"]) == (4, "build_failed")
        assert "--ca-bundle" in error["hint"]
        built = build_from(package, "--ca-bundle", str(proxy.ca))
        assert built.returncode == 0, built.stdout
        assert set(proxy.connected) == {f"{INDEX_HOST}:443"}
        document = json.loads(built.stdout)
        # Another certificate, and a tag that is there already.
        other = tmp_path / "more.pem"
        other.write_bytes(2 * proxy.ca.read_bytes())
        assert json.loads(build_from(package, "--ca-bundle", str(other)).stdout)["outcome"] == "unchanged"
        layers = local.layers(document["tag"])
        again = build_from(package, "--ca-bundle", str(other), "--no-cache")
        assert again.returncode == 0, again.stdout
        assert local.layers(json.loads(again.stdout)["tag"]) == layers
    files = set(json.loads(python(local.engine, document["tag"], "-c", WALK)[0]))
    assert "/var/task/tiny.py" in files
    assert not [name for name in files if name.endswith(".pem") or name.startswith("/build")]
    described = [image.attrs for image in local.engine.images.list(all=True)]
    told = json.dumps([described, local.engine.api.history(document["tag"])])
    assert proxy.url not in told


# Failures


def load_image(engine: Any, name: str, arch: str, label: str) -> None:
    """Load an image of one empty layer for any architecture into the Engine."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    digest = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    key, value = label.split("=")
    config = {"architecture": arch, "os": "linux", "config": {"Labels": {key: value}}}
    files = {
        "config.json": json.dumps(config | {"rootfs": {"type": "layers", "diff_ids": [digest]}}).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode(),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file, content in files.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    engine.images.load(archive.getvalue())


def test_a_base_image_of_another_architecture(
    mlinfer: MlInfer, local: Local, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local base image of another architecture is refused before the build."""
    name = f"mlinfer-test-arm:{label[-12:]}"
    load_image(local.engine, name, "arm64", label)
    monkeypatch.setenv("MLINFER_BASE_IMAGE", name)
    run = mlinfer("build", "--json")
    assert run.code == 2
    error = json.loads(run.out)["error"]
    assert error["code"] == "wrong_architecture"
    assert all(word in error["message"] for word in (name, "arm64", "x86_64"))
    assert "docker pull --platform linux/amd64" in error["hint"]


@pytest.mark.usefixtures("local")
def test_an_architecture_that_the_base_image_lacks(mlinfer: MlInfer) -> None:
    """`--arch arm64` on an x86_64 base image is refused."""
    run = mlinfer("build", "--arch", "arm64", "--json")
    assert run.code == 2
    assert json.loads(run.out)["error"]["code"] == "wrong_architecture"


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("name", ["127.0.0.1:9/none:1", "mlinfer-there-is-none"])
def test_an_unavailable_base_image(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A base image that cannot be pulled is a remote failure with a hint."""
    monkeypatch.setenv("MLINFER_BASE_IMAGE", name)
    run = mlinfer("build", "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (4, "base_image_unavailable")
    assert "base_image in mlinfer.toml" in error["hint"]


@pytest.mark.usefixtures("local")
def test_a_failing_step_shows_its_last_lines(package: Path) -> None:
    """A package with another hash is not installed, and pip's words are shown."""
    requirement = f"packaging==26.3 --hash=sha256:{'0' * 64}\n"
    (package / "docker" / "requirements.txt").write_text(requirement)
    run = build_from(package)
    error = json.loads(run.stdout)["error"]
    assert (run.returncode, error["code"]) == (4, "build_failed")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in error["message"]
    assert error["message"].splitlines()[1].startswith("    Step 5/")
    assert "\x1b" not in error["message"]
    assert error["hint"]


@pytest.mark.usefixtures("local")
def test_no_disk_space_for_the_context(mlinfer: MlInfer, tiny_model: Path) -> None:
    """A disk too full for the build context is an error that says so."""
    limit, there = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, there))
    try:
        run = mlinfer("build", "--model", tiny_model, "--model-source", "image", "--no-cache", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, there))
        signal.signal(signal.SIGXFSZ, ignored)
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "cannot_write")
    assert "File too large" in error["message"]
    assert "TMPDIR" in error["hint"]


@pytest.mark.parametrize("logins", [{"credsStore": "missing"}, {"credHelpers": {"example.com": "missing"}}])
def test_logins_that_cannot_be_read(
    mlinfer: MlInfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logins: dict[str, Any]
) -> None:
    """A missing credential helper is an error that names Docker's configuration file."""
    tmp_path.joinpath("config.json").write_text(json.dumps(logins))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    run = mlinfer("build", "--no-cache", "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "docker_logins")
    assert "docker-credential-missing" in error["message"]
    assert "credHelpers" in error["hint"]


def test_a_file_that_is_not_a_model(mlinfer: MlInfer, tmp_path: Path) -> None:
    """A file that is not a model is refused."""
    (tmp_path / "none.onnx").write_bytes(b"no model")
    run = mlinfer("build", "--model-source", "image", "--model", tmp_path / "none.onnx", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "invalid_model")
