"""What doctor reports about the real Engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..conftest import Run

MlInfer = Callable[..., Run]


def test_the_real_engine(mlinfer: MlInfer, engine: Any, base_image: str) -> None:
    """Version, machine and base image are the Engine's; AWS is not required if it is not used."""
    run = mlinfer("doctor", "--json")
    assert run.code == 0
    found = {item["check"]: item for item in reversed(json.loads(run.out)["findings"])}
    version, info = engine.version(), engine.info()
    assert f"Engine {version['Version']} (API {version['ApiVersion']}" in found["docker"]["finding"]
    assert (found["base image"]["state"], base_image in found["base image"]["finding"]) == ("ok", True)
    assert found["machine"]["finding"].startswith(f"{info['NCPU']} cores")
    assert found["credentials"]["state"] == "warning"


def test_a_base_image_that_no_registry_has(mlinfer: MlInfer, engine: Any, registry: Any, monkeypatch: Any) -> None:
    """For a missing base image, the finding has the registry's words."""
    assert engine.ping()
    monkeypatch.setenv("MLINFER_BASE_IMAGE", f"{registry.host}/not/there:1")
    run = mlinfer("doctor", "--json")
    (found,) = [item for item in json.loads(run.out)["findings"] if item["check"] == "base image"]
    assert found["state"] == "missing"
    assert any(request.path.startswith("/v2/") for request in registry.requests())
