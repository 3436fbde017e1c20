"""Accept an answer only from the model file that the user named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lambda_src.inference.download import sha256_of

from ..config import Config
from ..errors import VerificationError
from ..model.path import model_path
from . import Target

SHORT = 12  # of a SHA-256, the digits that people are shown


@dataclass(frozen=True)
class NamedModel:
    """The model file that the user named: only its answers are shown.

    origin: the flag, variable or file that names it. remedy: what lets the target answer with it.
    """

    path: str
    sha256: str
    origin: str
    remedy: str


def find_named_model(config: Config, remedy: str) -> NamedModel | None:
    """Return the model file that a flag, variable or file names; None where nothing does. Raises MissingError."""
    if config.origins["model"] == "default":
        return None
    path = model_path(config)
    return NamedModel(config.model, sha256_of(path), config.origins["model"], remedy)


def require_model(answered: Mapping[str, str], named: NamedModel | None, target: str) -> None:
    """Refuse an answer that another model gave. answered: its name and sha256. Raises VerificationError."""
    if named and answered["sha256"] != named.sha256:
        message = (
            f"target {target} answered with model {answered['name']} ({answered['sha256'][:SHORT]}), "
            f"but {named.origin} names {named.path} ({named.sha256[:SHORT]})"
        )
        raise VerificationError("another_model", message, named.remedy)


def refuse_other_models(target: Target, named: NamedModel | None, kind: str) -> Target:
    """Return the target, of kind local or aws, that raises VerificationError where another model answers."""

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        answer = target(name, data, top_k)
        if answer["statusCode"] == 200:
            require_model(answer["body"]["model"], named, kind)
        return answer

    return ask
