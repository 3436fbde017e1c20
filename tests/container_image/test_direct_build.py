"""The builder that needs no Engine, and base images that it refuses."""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Run
from ..images import BASE, SETTINGS, Entry, file, tar_of

MlInfer = Callable[..., Run]
MANIFEST, CONFIG, LAYER = (
    f"application/vnd.oci.image.{name}" for name in ("manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip")
)


def write_archive(path: Path, *entries: Entry, damage: bytes = b"") -> None:
    """Write a base image of one layer in the OCI image layout. damage: added to the layer after its digest was taken."""
    plain = tar_of(entries)
    layer = gzip.compress(plain, mtime=0)
    diff_ids = [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": SETTINGS,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    blobs: dict[str, bytes] = {}

    def add(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "size": len(content), "digest": f"sha256:{digest}"}

    described = {"config": add(json.dumps(config).encode(), CONFIG), "layers": [add(layer, LAYER)]}
    blobs[hashlib.sha256(layer).hexdigest()] += damage
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, **described}
    index = {"schemaVersion": 2, "manifests": [add(json.dumps(manifest).encode(), MANIFEST)]}
    files = [file(f"blobs/sha256/{digest}", content) for digest, content in blobs.items()]
    path.write_bytes(tar_of([*files, file("index.json", json.dumps(index).encode())]))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure a base image in an archive, and an empty cache."""
    path = tmp_path / "folder" / "base.tar"
    path.parent.mkdir()
    monkeypatch.setenv("MLINFER_BUILDER", "direct")
    monkeypatch.setenv("MLINFER_BASE_IMAGE", f"oci-archive:{path}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))  # what a wrong deletion would remove
    return path


def error_code(run: Run) -> str:
    """Return the code of the error."""
    return str(json.loads(run.out)["error"]["code"])


def test_a_base_image_without_python(mlinfer: MlInfer, base: Path) -> None:
    """A base image that contains no Python is refused."""
    write_archive(base, *BASE)
    run = mlinfer("build", "--json")
    assert (run.code, error_code(run)) == (5, "unsupported_base")


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "var/.wh..."])
def test_a_deletion_outside_the_image(mlinfer: MlInfer, base: Path, name: str) -> None:
    """A base image cannot delete files of this machine."""
    write_archive(base, *BASE, file(name))
    run = mlinfer("build", "--json")
    assert (run.code, error_code(run)) == (5, "unsupported_base")
    assert base.is_file()


def test_a_damaged_layer(mlinfer: MlInfer, base: Path) -> None:
    """A layer that does not match its digest is not used."""
    write_archive(base, *BASE, damage=b"more")
    run = mlinfer("build", "--json")
    assert (run.code, error_code(run)) == (5, "invalid_layer")


def test_an_archive_that_does_not_exist(mlinfer: MlInfer, base: Path) -> None:
    """A missing archive is an error that names it."""
    run = mlinfer("build", "--json")
    assert (run.code, error_code(run)) == (3, "base_image_unavailable")
    assert str(base) in json.loads(run.out)["error"]["message"]
