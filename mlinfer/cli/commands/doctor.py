"""`mlinfer doctor`: check this machine and AWS for problems."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from ...config import Config
from ...errors import MissingError, MlinferError
from ...names import Account, Names
from ...terminal import Terminal
from ..application import command
from ..options import (
    AccountOptions,
    ArchFlag,
    AwsOptions,
    BucketFlag,
    ModelFlag,
    OutputOptions,
    read_configuration,
    report_unused,
)
from ..views.findings import STYLES, list_findings


@command("mlinfer doctor", "mlinfer doctor --policy > policy.json")
def doctor(
    *,
    policy: Annotated[
        bool, typer.Option("--policy", help="Print the IAM policy that a deployment needs, without any checks.")
    ] = False,
    model: ModelFlag = None,
    arch: ArchFlag = None,
    bucket: BucketFlag = None,
    aws: AwsOptions,
    output: OutputOptions,
) -> int:
    """Check this machine and AWS for problems.

    It checks Docker, credentials, Region, permissions, quotas and the model, and suggests a fix for each problem. It changes nothing. The exit code is 3 if a required item is missing.
    """
    from ...clients import docker
    from ...doctor import Tools, examine
    from ...doctor.findings import ANSWER_S

    terminal = output.make_terminal()
    config = read_configuration(aws, model=model, arch=arch, bucket=bucket)
    if policy:
        report_unused(terminal, config, "--policy checks nothing", model=model, arch=arch)
        terminal.document(_deployer_policy(config, _account(terminal, aws.account)))
        return 0
    make_client, is_set_up = _client_maker(terminal, aws.account, ANSWER_S)
    tools = Tools(
        connect=lambda: docker.connect(os.environ, ANSWER_S),
        make_client=make_client,
        policy=partial(_deployer_policy, config),
    )
    named = aws.account.region or aws.account.profile or config.bucket or config.target == "aws"
    findings = examine(config, tools, uses_aws=bool(named) or is_set_up)
    missing = sum(finding.state == "missing" for finding in findings)
    if output.as_json:
        terminal.document({"missing": missing, "findings": [asdict(finding) for finding in findings]})
    else:
        terminal.rows(list_findings(findings), header=("", "check", "finding"), styles=STYLES)
    counted = "1 required item is" if missing == 1 else f"{missing or 'No'} required items are"
    terminal.note(f"{counted} missing.")
    return MissingError.exit_code if missing else 0


def _client_maker(
    terminal: Terminal, options: AccountOptions, read_timeout: float
) -> tuple[Callable[[str], Any], bool]:
    """Return a function that creates AWS clients, and whether a Region or credentials are set up.

    It asks for an MFA code now, because the checks have a deadline.
    """

    try:
        session = options.make_session(terminal)
        if session.asks:
            session.require_credentials()
        is_set_up = session.is_set_up()
    except MlinferError as error:  # set up, but invalid: the checks report it
        return partial(_raise, error), True

    def make(service: str) -> Any:
        session.require_region()
        return session.client(service, read_timeout=read_timeout)

    return make, is_set_up


def _raise(error: MlinferError, _: str) -> NoReturn:
    raise error


def _deployer_policy(config: Config, account: Account) -> dict[str, Any]:
    from ...cloud.resources.policies import deployer_policy

    return deployer_policy(
        account, Names(config.project), bucket=config.bucket, prefix=config.prefix, kms_key=config.kms_key
    )


def _account(terminal: Terminal, options: AccountOptions) -> Account:
    """Return the account of the credentials; without credentials, an account of wildcards."""
    from ...clients import aws

    try:
        return aws.find_account(
            aws.make_client("sts", region=options.region, profile=options.profile, ask=terminal.ask_secret)
        )
    except MlinferError as error:
        terminal.note(f"The policy is for any account and Region, because yours is unknown: {error}.")
        region = options.region
        return Account("*", region or "*", aws.partition_of(region) if region else "aws")
