"""`mlinfer rollback`: send the traffic back to an older version."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
from ..views.plan import describe_steps, show_step

if TYPE_CHECKING:
    from ...cloud.rollback import Rollback


@command
def rollback(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Number; default: the one before the live one.")
    ] = None,
    *,
    model: ModelFlag = None,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Send the traffic back to an older version, once it has been proved:  mlinfer rollback

    Without VERSION a second rollback changes nothing, since the first may have been cut short; to go further back name the version. The answers are compared with those of the version's own model file here, which is fetched from S3 if the configured one is another. Of a model that is in the image alone, it is proved that the version answers with that model, twice the same.
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
    made = apply_rollback(planned, partial(show_step, terminal, dry_run=False))
    _show_rollback(terminal, made)


def _show_rollback(terminal: Terminal, made: Rollback) -> None:
    if terminal.as_json:
        facts = {"function": made.function, "version": made.version, "before": made.before}
        terminal.document({**facts, "steps": describe_steps(made.steps)})
    if made.done_before:
        terminal.note(f"Version {made.version} is live already: it was rolled back to from version {made.before}.")
        terminal.note("To go further back, name the version: mlinfer rollback VERSION")
    elif made.version == made.before:
        terminal.note(f"Version {made.version} is live already.")
    else:
        terminal.note(f"Live: version {made.version} of {made.function}, proved; before: {made.before}.")
