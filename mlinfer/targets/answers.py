"""Check that predictions come from the model file that the user chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lambda_src.inference.download import sha256_of

from ..config import Config
from ..errors import VerificationError
from ..model.path import model_path
from . import Target

SHORT = 12  # digits of a SHA-256 in messages


@dataclass(frozen=True)
class NamedModel:
    """The model file that the user chose. origin: the flag, variable or file that sets it. remedy: the hint for a mismatch."""

    path: str
    sha256: str
    origin: str
    remedy: str


def find_named_model(config: Config, remedy: str) -> NamedModel | None:
    """Return the model file that a flag, variable or mlinfer.toml sets, or None. Raises MissingError."""
    if config.origins["model"] == "default":
        return None
    path = model_path(config)
    return NamedModel(config.model, sha256_of(path), config.origins["model"], remedy)


def require_model(answered: Mapping[str, str], named: NamedModel | None, target: str) -> None:
    """Raise VerificationError if another model made the prediction. answered: its name and sha256."""
    if named and answered["sha256"] != named.sha256:
        message = (
            f"target {target} uses model {answered['name']} ({answered['sha256'][:SHORT]}), "
            f"but {named.origin} sets {named.path} ({named.sha256[:SHORT]})"
        )
        raise VerificationError("another_model", message, named.remedy)


def refuse_other_models(target: Target, named: NamedModel | None, kind: str) -> Target:
    """Wrap a target so that it raises VerificationError for another model. kind: "local" or "aws"."""

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        answer = target(name, data, top_k)
        if answer["statusCode"] == 200:
            require_model(answer["body"]["model"], named, kind)
        return answer

    return ask
