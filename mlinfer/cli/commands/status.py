"""`mlinfer status`: show what is live, and how it differs from what is here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import Config
from ...errors import MlinferError, UsageError
from ...names import Names
from ...terminal import Terminal
from ..application import command
from ..options import (
    AccountOptions,
    ModelFlag,
    OutputOptions,
    ProjectFlag,
    find_account,
    make_deployment_clients,
    read_configuration,
    require_digest,
)

if TYPE_CHECKING:
    from ...clients.aws import Session
    from ...cloud.drift import Drift
    from ...cloud.resources.function import FunctionConfig
    from ...cloud.status import Status

DIFFERS = 6  # exit code of `status --exit-code`


@command
def status(
    *,
    model: ModelFlag = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="REPOSITORY@DIGEST", help="Compare with this; default: the image built here."),
    ] = None,
    project: ProjectFlag = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 6 if deployed and local differ, for scripts.")
    ] = False,
    account: AccountOptions,
    output: OutputOptions,
) -> int:
    """Show what is live, and whether that is what is here:  mlinfer status

    It compares the model, the configuration, and the image where the Docker Engine has it. It also shows what is missing in AWS or was changed there by somebody else.
    """
    from ...cloud.drift import find_drift
    from ...cloud.status import differences, read_status
    from ...model.path import model_path

    terminal = output.make_terminal()
    config = read_configuration(model=model, project=project)
    session = account.open_session(terminal)
    there = read_status(session.client("lambda"), Names(config.project))
    here = _wanted_here(config, session, there, image)
    differs = differences(there, here, config.url) if here else None
    clients = replace(make_deployment_clients(session), ecr=session.client("ecr"))
    drift = find_drift(
        clients, account=find_account(session), names=Names(config.project), status=there, kms_key=config.kms_key
    )
    comparison = _Comparison(there, here, differs, drift)
    if output.as_json:
        terminal.document(comparison.facts())
    else:
        _show(terminal, config, comparison)
    if exit_code and here is None:
        model_path(config)
        hint = 'Set bucket, or model_source = "image", in mlinfer.toml.'
        raise UsageError("no_bucket", "no S3 bucket is named for the model, so there is nothing to compare", hint)
    return DIFFERS if exit_code and comparison.is_different else 0


@dataclass(frozen=True)
class _Comparison:
    """What is live beside what is here. here: None where that is not known. difference: of the two, line by line."""

    there: Status
    here: FunctionConfig | None
    difference: str | None
    drift: Sequence[Drift]

    @property
    def is_drifted(self) -> bool:
        return any(found.mended for found in self.drift)

    @property
    def is_different(self) -> bool:
        return bool(self.difference or self.is_drifted)

    def facts(self) -> dict[str, Any]:
        return {
            **self.there.facts(),
            "as_here": None if self.here is None else not self.is_different,
            "difference": self.difference,
            "image_compared": bool(self.here and self.here.image),
            "drift": [found.as_json() for found in self.drift],
        }


def _show(terminal: Terminal, config: Config, comparison: _Comparison) -> None:
    """Write what is live as a table, then how it differs."""
    left_out = ("difference", "image_compared", "drift")
    facts = {name: value for name, value in comparison.facts().items() if name not in left_out}
    terminal.rows([(name.replace("_", " "), _in_words(value)) for name, value in facts.items()])
    for found in comparison.drift:
        terminal.note(f"{found.resource} {found.name}: {found.problem}: {found.detail}")
        if found.difference:
            terminal.note("\n".join(f"    {line}" for line in found.difference.splitlines()))
    if comparison.is_drifted:
        terminal.note("To repair what is missing or was changed in AWS: mlinfer deploy")
    terminal.note(_summary(config, comparison))
    if comparison.here and not comparison.here.image:
        terminal.note("The image was not compared: it is not built here, or the Docker Engine or ECR does not tell.")


def _summary(config: Config, comparison: _Comparison) -> str:
    from ...model.path import find_configured_model

    if comparison.here is None:
        named = find_configured_model(config)
        missing = "no bucket is named for the model" if named else "the configured model file is not here"
        return f"Not compared: {missing}."
    if comparison.difference:
        return f"What is live differs from what is here:\n{comparison.difference}"
    return "The deployed configuration equals the local one." if comparison.drift else "What is live is what is here."


def _wanted_here(config: Config, session: Session, there: Status, image: str | None) -> FunctionConfig | None:
    """Return what `deploy` would make of what is here; None without a model file, or a bucket for it. Raises MlinferError."""
    from ...cloud import deploy
    from ...cloud.resources.role import role_arn
    from ...model.path import find_configured_model

    file = find_configured_model(config)
    if file is None:
        return None
    if not config.bucket:  # it was given by a flag of deploy, so there is none here to differ from
        config = replace(config, bucket=there.bucket)
    if config.model_source == "s3" and not config.bucket:
        return None
    spec = deploy.DeploymentSpec(config, file, find_account(session))
    role = role_arn(session.client("iam"), spec.account, spec.names)
    return deploy.function_config(spec, require_digest(image) if image else _image_here(config, session), role)


def _image_here(config: Config, session: Session) -> str:
    """Return how ECR names the image that is built here, or would once it is pushed; "" where nobody can tell."""
    from ...clients import docker
    from ...cloud.resources.repository import read_repository
    from ...container_image.contents import make_build_spec
    from ...container_image.push import plan_push

    try:
        engine, tag = docker.connect(os.environ), make_build_spec(config, os.environ).tag()
        if engine.find_image(tag) is None:
            return ""
        ecr = session.client("ecr")
        there = read_repository(ecr, Names(config.project))
        return plan_push(engine, ecr, repository=there.uri if there else "", tag=tag, arch=config.arch).uri
    except MlinferError:
        return ""


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}={text}" for name, text in value.items())
    return {True: "yes", False: "no", None: "(none)"}[value] if value is None or isinstance(value, bool) else str(value)
