"""`mlinfer rollback`: return to an earlier version of the function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ...names import Names
from ...terminal import Terminal
from ..application import command
from ..options import (
    AwsOptions,
    ModelFlag,
    OutputOptions,
    find_account,
    make_deployment_clients,
    make_waiter,
    read_configuration,
)
from ..views.plan import describe_steps, steps_shown

if TYPE_CHECKING:
    from ...cloud.rollback import Rollback


@command("mlinfer rollback", "mlinfer rollback 3")
def rollback(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Version number.", show_default="the version before the deployed one"),
    ] = None,
    *,
    model: ModelFlag = None,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Return to an earlier version of the function.

    The version gets traffic only after its answers were verified against its model file, which is downloaded from S3 if needed. Without VERSION, a second rollback changes nothing. To go further back, name the version.
    """
    from ...cloud.rollback import RollbackSpec, plan_rollback
    from ...cloud.rollback import rollback as apply_rollback
    from ...model.path import find_configured_model
    from ...targets import embedded

    terminal = output.make_terminal()
    config = read_configuration(aws, model=model)
    session = aws.account.open_session(terminal)
    spec = RollbackSpec(find_account(session), Names(config.project), version or "", find_configured_model(config))
    planned = plan_rollback(
        spec,
        make_deployment_clients(session),
        embedded=lambda path: embedded.make_target(replace(config, model=str(path)), log=terminal.detail),
        waiter=make_waiter(terminal),
    )
    with steps_shown(terminal) as show:
        made = apply_rollback(planned, show)
    _show_rollback(terminal, made)


def _show_rollback(terminal: Terminal, made: Rollback) -> None:
    if terminal.as_json:
        facts = {"function": made.function, "version": made.version, "before": made.before}
        terminal.document({**facts, "steps": describe_steps(made.steps)})
    if made.done_before:
        terminal.note(f"Version {made.version} is already deployed, since the rollback from version {made.before}.")
        terminal.note("To go further back, run `mlinfer rollback VERSION`.")
    elif made.version == made.before:
        terminal.note(f"Version {made.version} is already deployed.")
    else:
        terminal.note(
            f"Deployed: version {made.version} of function {made.function}, verified (before: version {made.before})."
        )
