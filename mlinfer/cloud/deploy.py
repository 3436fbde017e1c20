"""Bring model and image to Lambda, prove that the answer has not changed, and only then let traffic there.

There is no state file: each step reads what AWS has, compares it with what is wanted, and changes only what differs. So
a run that was killed anywhere is finished by the next one, and a run that finds nothing to do changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ..clients.aws import Client, s3_endpoint
from ..clients.aws_errors import explained
from ..clients.waiter import Waiter
from ..config import Config
from ..container_image.contents import MODEL_PATH
from ..model.modelfile import ModelFile
from ..model.samples import draw
from ..names import ALIAS, Account, Names
from ..targets import Target
from .plan import Change, Outcome, Step, Steps
from .resources.alias import Alias, ensure_url, move_alias, plan_alias, read_alias
from .resources.function import Wanted, ensure_function, ensure_version, plan_version, read_function, versions
from .resources.log_group import ensure_log_group, read_log_group
from .resources.model_object import (
    close_bucket,
    ensure_bucket,
    is_bucket,
    is_uploaded,
    object_key,
    require_bucket,
    upload,
)
from .resources.policies import role_policy
from .resources.role import ensure_role, read_role, role_facts
from .resources.staging import ensure_expiry
from .verify import NETWORK_S, PICTURES, prove, version_asker

READABLE_VERSIONS = 10  # whose models the role lets the function read, so that `rollback` needs no change of the role

_PROVED_AGAIN = ("role", "model", "function")  # a live version that was without one of them is proved once more

Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


class PushedImage(Protocol):
    """What came of the image. uri: repository@sha256:..., or in a plan, where it is not there yet, repository:tag."""

    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def outcome(self) -> Outcome: ...  # noqa: D102


@dataclass(frozen=True)
class Clients:
    """invoker: makes a client that waits that many seconds for an answer, and repeats no request.

    ecr: of the project's own repository; None where the image is in another one.
    """

    functions: Client
    iam: Client
    logs: Client
    s3: Client
    invoker: Callable[[float], Client]
    ecr: Client | None = None


@dataclass(frozen=True)
class Order:
    """What is to be deployed."""

    config: Config
    file: ModelFile
    account: Account
    create_bucket: bool = False
    dry_run: bool = False

    @property
    def names(self) -> Names:
        """Return the names of the project's resources."""
        return Names(self.config.project)

    @property
    def model_uri(self) -> str:
        """Return where the function finds its model."""
        if self.config.model_source == "image":
            return MODEL_PATH
        return f"s3://{self.config.bucket}/{object_key(self.file, self.config.prefix)}"


@dataclass(frozen=True)
class Deployment:
    """What is live now, or would be. url "" = none."""

    function: str
    alias: str
    version: str
    image: str
    model: str
    url: str
    steps: tuple[Step, ...]


def deploy(
    order: Order,
    clients: Clients,
    image: Callable[[], PushedImage],
    embedded: Target,
    waiter: Waiter,
    report: Callable[[Step], None],
    bar: Bar,
) -> Deployment:
    """Do what is left to do, step by step; of a dry run, say it. Raises MlinferError."""
    config, names, steps = order.config, order.names, Steps(report)
    _require_ours(order, clients)
    with explained(f"the function {names.function}"):
        live = read_alias(clients.functions, names)
        published = versions(clients.functions, names)
    # The role comes before the bucket that its policy names: `destroy` then knows which bucket is this project's, even one
    # that was not tagged yet when the deployment was killed.
    policy = role_policy(
        order.account, names, _models(order, published, live), input_prefixes(config, names), config.kms_key
    )
    steps.ended("role", ensure_role(clients.iam, names, policy, dry_run=order.dry_run))
    if config.bucket:
        _prepare_bucket(order, clients.s3, steps, bar)
    pushed = image()
    steps.ended("image", Change(pushed.outcome, pushed.uri))
    if clients.ecr:
        from ..container_image.registry import mend_repository  # and with it the Docker SDK

        if mended := mend_repository(clients.ecr, names, dry_run=order.dry_run):
            steps.ended("repository", mended)
    steps.ended("log group", ensure_log_group(clients.logs, names, config.log_days, dry_run=order.dry_run))
    role, role_created = role_facts(clients.iam, order.account, names)
    to_be = wanted(order, pushed.uri, role)
    version = _publish(order, clients.functions, to_be, role_created, waiter, steps)
    again = any(step.name in _PROVED_AGAIN and step.change.outcome in ("made", "changed") for step in steps.done)
    steps.ended("proof", _proof(order, clients, embedded, version, None if again else live, waiter))
    if order.dry_run:
        steps.ended("alias", plan_alias(live, version))
    else:
        steps.ended("alias", move_alias(clients.functions, names, live, version))
    change, url = ensure_url(clients.functions, names, config.url, dry_run=order.dry_run)
    steps.ended("url", change)
    return Deployment(names.function, ALIAS, version, to_be.image, order.model_uri, url, tuple(steps.done))


def _require_ours(order: Order, clients: Clients) -> None:
    """Refuse resources that have our names and are not the project's, and a bucket that is missing, before any change.

    Raises RemoteError.
    """
    names = order.names
    if bucket := order.config.bucket:
        require_bucket(clients.s3, bucket, names.project, create=order.create_bucket)
    with explained(f"the function {names.function}"):
        read_function(clients.functions, names)
    with explained(f"the role {names.function}"):
        read_role(clients.iam, names)
    with explained(f"the log group {names.log_group}"):
        read_log_group(clients.logs, names)
    if clients.ecr:
        from ..container_image.registry import read_repository  # and with it the Docker SDK

        with explained(f"the ECR repository {names.image}"):
            read_repository(clients.ecr, names)


def _prepare_bucket(order: Order, s3: Client, steps: Steps, bar: Bar) -> None:
    """Make the bucket if that was asked for, bring the model there, and let staged pictures expire."""
    config, missing, made = order.config, False, False
    if order.create_bucket:
        bucket = config.bucket
        missing = order.dry_run and not is_bucket(s3, bucket)
        made = (
            missing
            if order.dry_run
            else ensure_bucket(s3, bucket, config.project, lambda: order.account.id, config.kms_key)
        )
        if made:
            steps.ended("bucket", Change("made", f"s3://{bucket}"))
    if not made:
        steps.ended("bucket", close_bucket(s3, order.names, config.bucket, dry_run=order.dry_run))
    if config.model_source == "s3":
        steps.ended("model", Change("made", order.model_uri) if missing else _bring_model(order, s3, bar))
    steps.ended("staging", ensure_expiry(s3, config.bucket, order.names, dry_run=order.dry_run))


def _bring_model(order: Order, s3: Client, bar: Bar) -> Change:
    file, key = order.file, object_key(order.file, order.config.prefix)
    if order.dry_run:
        held = is_uploaded(s3, file, order.config.bucket, key)
    else:
        with bar(file.bytes, "Uploading") as advance:
            held = upload(s3, file, order.config.bucket, key, advance, order.config.kms_key).outcome == "unchanged"
    return Change("unchanged" if held else "made", order.model_uri)


def _publish(
    order: Order,
    functions: Client,
    to_be: Wanted,
    role_created: datetime | None,
    waiter: Waiter,
    steps: Steps,
) -> str:
    """Bring the function to what is wanted, and return the version that holds it."""
    names, dry_run = order.names, order.dry_run
    change = ensure_function(functions, names, to_be, waiter, dry_run=dry_run, role_created=role_created)
    steps.ended("function", change)
    if order.dry_run:
        change, version = plan_version(functions, names, to_be)
    else:
        change, version = ensure_version(functions, names, to_be, waiter)
    steps.ended("version", change)
    return version


def _proof(
    order: Order, clients: Clients, embedded: Target, version: str, live: Alias | None, waiter: Waiter
) -> Change:
    """Ask the version, unless it is live already, which it became by a proof."""
    if live and live.version == version:
        return Change("skipped", f"version {version} was proved before it went live")
    if order.dry_run:
        return Change("made", f"version {version} would be asked about {PICTURES} pictures")
    invoker = clients.invoker(order.config.timeout + NETWORK_S)
    ask = version_asker(invoker, order.names, version, waiter)
    return Change("made", prove(ask, embedded, order.file.sha256, draw(PICTURES)))


def wanted(order: Order, image: str, role: str) -> Wanted:
    """Return what the function is to be, by configuration and model file. role: its ARN."""
    config = order.config
    return Wanted(
        image=image,
        arch=config.arch,
        role=role,
        memory=config.memory,
        timeout=config.timeout,
        tmp=config.tmp,
        environment=_environment(order),
        concurrency=config.concurrency or None,
    )


def _environment(order: Order) -> dict[str, str]:
    """Return the function's variables: see `lambda_src.settings`. What is left to its default there is not set here."""
    where = {"MLINFER_MODEL_URI": order.model_uri, "MLINFER_MODEL_SHA256": order.file.sha256}
    if endpoint := s3_endpoint(order.account.region):
        where["AWS_ENDPOINT_URL_S3"] = endpoint
    prefixes = " ".join(input_prefixes(order.config, order.names))
    return {**where, **order.config.handler_environment(), **({"MLINFER_INPUT_PREFIXES": prefixes} if prefixes else {})}


def input_prefixes(config: Config, names: Names) -> list[str]:
    """Return where the function may read pictures: as configured, and where `predict` puts those too large to send."""
    configured = config.input_prefixes.replace(",", " ").split()
    return configured + ([f"s3://{config.bucket}/{names.staging_prefix}"] if config.bucket else [])


def _models(order: Order, published: Sequence[dict[str, Any]], live: Alias | None) -> set[str]:
    """Return the models that the function reads from S3: the new one, and those of versions that are or may go live.

    It is the same before and after the new version is published, so that a second deployment changes nothing.
    """
    others = [version for version in published if model_uri(version) != order.model_uri]
    kept = [version for version in others if live and version["Version"] == live.version]
    uris = [model_uri(version) for version in [*kept, *others[1 - READABLE_VERSIONS :]]]
    return {uri for uri in [order.model_uri, *uris] if uri.startswith("s3://")}


def model_uri(version: dict[str, Any]) -> str:
    """Return where a version finds its model, from Lambda's description of it."""
    return str(version.get("Environment", {}).get("Variables", {}).get("MLINFER_MODEL_URI", ""))
