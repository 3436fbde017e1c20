"""`mlinfer status`: show what is deployed and how it differs from the project."""

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
from ..application import FUNCTION, command
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
from ..views.image import open_builder

if TYPE_CHECKING:
    from ...clients.aws import Session
    from ...cloud.drift import Drift
    from ...cloud.resources.function import FunctionConfig
    from ...cloud.status import Status

DIFFERS = 6  # exit code of `status --exit-code`


@command("mlinfer status", "mlinfer status --json", "mlinfer status --exit-code  # in a script")
def status(
    *,
    model: ModelFlag = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REPOSITORY@DIGEST",
            help="Container image to compare with.",
            show_default="the one built here",
            rich_help_panel=FUNCTION,
        ),
    ] = None,
    project: ProjectFlag = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 6 if the deployed function and the project differ.")
    ] = False,
    account: AccountOptions,
    output: OutputOptions,
) -> int:
    """Show what is deployed and how it differs from the project.

    It compares the model, the configuration and, if the Docker Engine has it, the container image. It also shows resources that are missing in AWS or were changed outside mlinfer.
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
        hint = "Set `bucket` in mlinfer.toml."
        raise UsageError("no_bucket", "cannot compare: no S3 bucket is set for the model", hint)
    return DIFFERS if exit_code and comparison.is_different else 0


_LABELS = {"as_here": "up to date", "image": "container image"}
_UNITS = {"memory": "MB", "timeout": "s", "tmp": "MB"}


@dataclass(frozen=True)
class _Comparison:
    """The deployed function and the project. here: None if unknown. difference: a diff of the two."""

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
    """Write the deployed function as a table, then how it differs from the project."""
    left_out = ("difference", "image_compared", "drift")
    facts = {name: value for name, value in comparison.facts().items() if name not in left_out}
    terminal.rows(
        [
            (_LABELS.get(name, name.replace("_", " ")), _in_words(value, _UNITS.get(name)))
            for name, value in facts.items()
        ]
    )
    for found in comparison.drift:
        terminal.note(f"{found.resource} {found.name}: {found.problem}: {found.detail}")
        if found.difference:
            terminal.note("\n".join(f"    {line}" for line in found.difference.splitlines()))
    if comparison.is_drifted:
        terminal.note("Repair these resources with `mlinfer deploy`.")
    terminal.note(_summary(config, comparison))
    if comparison.here and not comparison.here.image:
        terminal.note(
            "The container image was not compared: it is not built here, or the Docker Engine or ECR did not respond."
        )


def _summary(config: Config, comparison: _Comparison) -> str:
    from ...model.path import find_configured_model

    if comparison.here is None:
        named = find_configured_model(config)
        missing = "no S3 bucket is set for the model" if named else "the configured model file does not exist"
        return f"Not compared: {missing}."
    if comparison.difference:
        return f"The deployed function differs from the project (run `mlinfer deploy` to update it):\n{comparison.difference}"
    return "The deployed configuration matches the project." if comparison.drift else "Up to date."


def _wanted_here(config: Config, session: Session, there: Status, image: str | None) -> FunctionConfig | None:
    """Return the function that `deploy` would create; None without a model file or a bucket. Raises MlinferError."""
    from ...cloud import deploy
    from ...cloud.resources.role import role_arn
    from ...model.path import find_configured_model

    file = find_configured_model(config)
    if file is None:
        return None
    if not config.bucket:  # the bucket was an option of `deploy`, so there is no local value to compare
        config = replace(config, bucket=there.bucket)
    if config.model_source == "s3" and not config.bucket:
        return None
    spec = deploy.DeploymentSpec(config, file, find_account(session))
    role = role_arn(session.client("iam"), spec.account, spec.names)
    return deploy.function_config(spec, require_digest(image) if image else _image_here(config, session), role)


def _image_here(config: Config, session: Session) -> str:
    """Return the URI in ECR of the container image that is built here; "" if it is unknown."""
    from ...cloud.resources.repository import read_repository
    from ...container_image.contents import make_build_spec
    from ...container_image.push import plan_push

    try:
        builder = open_builder(Terminal(quiet=True), config)
        tag = builder.complete(make_build_spec(config, os.environ)).tag()
        if builder.find_id(tag) is None:
            return ""
        ecr = session.client("ecr")
        there = read_repository(ecr, Names(config.project))
        return plan_push(builder, ecr, repository=there.uri if there else "", tag=tag, arch=config.arch).uri
    except MlinferError:
        return ""


def _in_words(value: Any, unit: str | None) -> str:
    if unit:
        return f"{value:,} {unit}"
    if isinstance(value, dict):
        return "\n".join(f"{name}={text}" for name, text in value.items())
    return {True: "yes", False: "no", None: "(none)"}[value] if value is None or isinstance(value, bool) else str(value)
