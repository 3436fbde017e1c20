"""What the configuration stands for: the model file, the contents of the image, the function to run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..names import Account
from ..terminal import Terminal

if TYPE_CHECKING:
    from ..clients.aws import Session
    from ..clients.waiter import Waiter
    from ..cloud.deploy import DeploymentClients


def account_of(session: Session) -> Account:
    """Return whose credentials these are. Raises MlinferError."""
    from ..clients import aws

    return aws.find_account(session.client("sts"))


def cloud_clients(session: Session) -> DeploymentClients:
    """Return the clients of a deployment."""
    from ..cloud.deploy import DeploymentClients

    functions, iam, logs, s3 = (session.client(service) for service in ("lambda", "iam", "logs", "s3"))
    return DeploymentClients(functions, iam, logs, s3, lambda seconds: session.client("lambda", read_timeout=seconds))


def make_waiter(terminal: Terminal) -> Waiter:
    """Return what waits for AWS, and says so."""
    from ..clients.waiter import Waiter

    return Waiter(time.sleep, terminal.note)
