"""Check what mlinfer needs on this machine and in AWS, and report each finding with its remedy.

The checks run in parallel, each with its own clients, so one that fails or hangs does not affect the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..clients.docker import Engine
from ..config import Config
from ..errors import MlinferError
from .aws import check_bucket, check_endpoints, check_identity, check_quotas
from .findings import OF_CREDENTIALS, Finding, PolicyFor
from .local import check_base_image, check_docker, check_machine, check_model
from .permissions import check_permissions

DEADLINE_S = 25.0  # for all checks together

_OF_AWS = ("credentials", "endpoints", "quotas", "permissions", "bucket")
_SERVICES = ("sts", "s3", "ecr", "lambda", "iam")


@dataclass(frozen=True)
class Tools:
    """The clients for the checks. policy: returns the IAM policy that deploying needs in an account."""

    connect: Callable[[], Engine]
    make_client: Callable[[str], Any]
    policy: PolicyFor


def examine(config: Config, tools: Tools, deadline_s: float = DEADLINE_S, *, uses_aws: bool = True) -> list[Finding]:
    """Run all checks and return the findings in a fixed order.

    uses_aws: False turns what is missing in AWS into warnings, for users who work only locally.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "model": lambda: check_model(config),
        "docker": lambda: check_docker(tools.connect()),
        "base image": lambda: check_base_image(tools.connect(), config),
        "machine": lambda: check_machine(tools.connect(), config),
        "credentials": lambda: check_identity(tools.make_client("sts")),
        "endpoints": lambda: check_endpoints([tools.make_client(service) for service in _SERVICES]),
        "quotas": lambda: check_quotas(tools.make_client("lambda"), config),
        "permissions": lambda: check_permissions(tools.make_client("sts"), tools.make_client("iam"), tools.policy),
        "bucket": lambda: check_bucket(tools.make_client, config),
    }
    found: dict[str, list[Finding]] = {}
    threads = [threading.Thread(target=_run, args=(name, check, found), daemon=True) for name, check in checks.items()]
    for thread in threads:
        thread.start()
    until = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = f"no response within {deadline_s:.0f} s"
    remedy = "Check the network and the proxy, then run `mlinfer doctor` again."
    findings = [item for name in checks for item in found.get(name, [Finding(name, "warning", late, remedy)])]
    return findings if uses_aws else [_optional(finding) for finding in findings]


def _optional(finding: Finding) -> Finding:
    """Turn a missing item in AWS into a warning."""
    if finding.check not in _OF_AWS or finding.state != "missing":
        return finding
    return replace(finding, state="warning", finding=f"{finding.finding} (needed only for AWS)")


def _run(name: str, check: Callable[[], Iterator[Finding]], found: dict[str, list[Finding]]) -> None:
    try:
        found[name] = list(check())
    except MlinferError as error:
        if name != "credentials" and error.code in OF_CREDENTIALS:
            found[name] = [Finding(name, "warning", "not checked: needs credentials and a Region")]
        elif name != "docker" and error.code.startswith("docker"):
            found[name] = [Finding(name, "warning", "not checked: needs Docker")]
        else:
            found[name] = [Finding(name, "missing", str(error), error.hint)]
    except Exception as error:  # a bug in one check must not hide the findings of the others
        said = f"internal error: {type(error).__name__}: {error}"
        remedy = "This is a bug in mlinfer. Please report it with this line and `mlinfer --version`."
        found[name] = [Finding(name, "warning", said, remedy)]
