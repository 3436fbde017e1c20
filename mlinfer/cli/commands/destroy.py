"""`mlinfer destroy`: delete the project's resources in AWS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import Config
from ...errors import UsageError
from ...names import Account, Names
from ...terminal import Terminal
from ..application import command
from ..options import (
    AwsOptions,
    BucketFlag,
    OutputOptions,
    PrefixFlag,
    YesFlag,
    find_account,
    make_waiter,
    read_configuration,
    report_unused,
)

if TYPE_CHECKING:
    from ...cloud.destroy import Removal, RemovalClients, Resource


@command("mlinfer destroy", "mlinfer destroy --keep-model", "mlinfer destroy --yes --project cats  # in a script")
def destroy(
    *,
    bucket: BucketFlag = None,
    prefix: PrefixFlag = None,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Keep the models and the bucket.")] = False,
    yes: YesFlag = False,
    aws: AwsOptions,
    output: OutputOptions,
) -> int:
    """Delete the project's resources in AWS.

    It lists the resources and asks before it deletes them. In a bucket that mlinfer created for this project, it deletes the models, and the bucket if it is then empty. In any other bucket, it deletes only staged images.
    """
    from ...cloud.destroy import RemovalClients, is_foreign, remove

    terminal = output.make_terminal()
    config = read_configuration(aws, bucket=bucket, prefix=prefix)
    report_unused(terminal, config, "--keep-model keeps the models", prefix=prefix if keep_model else None)
    session = aws.account.open_session(terminal, *([partial(_require_project, config)] if yes else []))
    clients = RemovalClients(
        functions=session.client("lambda"),
        iam=session.client("iam"),
        logs=session.client("logs"),
        ecr=session.client("ecr"),
        s3=session.client("s3"),
    )
    account = find_account(session)
    planned = _plan(terminal, config, clients, account, keep_model=keep_model)
    resources = [resource for resource in planned if not is_foreign(resource)]
    if not yes and not all(resource.left for resource in resources):
        _agree_to_removal(terminal, config, account)
    removals = [_shown(terminal, removal) for removal in remove(resources)]
    return _show_outcome(terminal, config, removals)


def _plan(
    terminal: Terminal, config: Config, clients: RemovalClients, account: Account, *, keep_model: bool
) -> list[Resource]:
    """Return what there is of the project, and list it. Raises MlinferError."""
    from ...cloud.destroy import RemovalSpec, bucket_in_use, plan_removal, require_bucket_in_use

    names = Names(config.project)
    in_use = bucket_in_use(clients.functions, clients.iam, names)
    require_bucket_in_use(config.bucket, in_use)
    looked_at = config.bucket or in_use
    spec = RemovalSpec(account, names, looked_at, config.prefix, keep_model)
    resources = plan_removal(spec, clients, make_waiter(terminal))
    if not looked_at:
        terminal.note("S3 was not checked: no bucket is set. Name one with --bucket.")
    for resource in resources:
        terminal.note(f"{resource.kind:<10} {resource.name}  ({resource.detail})")
    return resources


def _show_outcome(terminal: Terminal, config: Config, removals: list[Removal]) -> int:
    """Write what became of each resource as JSON, say what is left behind, and return the exit code."""
    from ...cloud.destroy import left_behind

    document = {"project": config.project, "things": [_removal_facts(removal) for removal in removals]}
    if error := left_behind(removals):
        terminal.error(error, beside=document)
        return error.exit_code
    if terminal.as_json:
        terminal.document(document)
    if not removals:
        terminal.note(f"Project {config.project} has no resources in AWS.")
    return 0


def _agree_to_removal(terminal: Terminal, config: Config, account: Account) -> None:
    """Ask for confirmation. Raises UsageError."""
    whose = f"project {config.project} in account {account.id}, Region {account.region}"
    if not terminal.confirm(f"Delete all of these resources of {whose}? This cannot be undone."):
        hint = f"Confirm with `mlinfer destroy --yes --project {config.project}`."
        raise UsageError("not_confirmed", f"the deletion of {whose} was not confirmed, so nothing was changed", hint)


def _shown(terminal: Terminal, removal: Removal) -> Removal:
    terminal.note(f"{removal.resource.kind:<10} {f'kept: {removal.kept}' if removal.kept else 'deleted'}")
    return removal


def _removal_facts(removal: Removal) -> dict[str, Any]:
    resource, outcome = removal.resource, "kept" if removal.kept else "removed"
    return {"kind": resource.kind, "name": resource.name, "outcome": outcome, "reason": removal.kept or None}


def _require_project(config: Config) -> None:
    if config.origins["project"] == "default":
        message = f"--yes needs a project name ({config.project} is only the name of this folder)"
        raise UsageError("no_project", message, f"Run `mlinfer destroy --yes --project {config.project}`.")
