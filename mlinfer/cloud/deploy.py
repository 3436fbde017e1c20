"""Deploy the model and container image to Lambda, and move traffic only after the new version is verified.

There is no state file. A plan compares AWS with the configuration, and each step reads AWS again before it changes
anything, so running the command again completes an interrupted deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from ..clients.aws import s3_endpoint
from ..clients.aws_errors import explained
from ..clients.waiter import Waiter
from ..config import Config
from ..container_image.contents import MODEL_PATH
from ..model.modelfile import ModelFile
from ..model.samples import draw
from ..names import ALIAS, Account, Names
from ..targets import Target
from .plan import Change, Document, Outcome, Plan, Step, StepResult, apply
from .resources.alias import Alias, apply_alias, plan_alias, read_alias
from .resources.bucket import apply_bucket, ensure_bucket, plan_bucket, read_bucket, require_bucket
from .resources.function import Function, FunctionConfig, apply_function, plan_function, read_function, try_image
from .resources.function_url import apply_url, plan_url, read_url
from .resources.log_group import apply_log_group, plan_log_group, read_log_group
from .resources.model_object import ModelObject, is_uploaded, object_key, plan_model, upload
from .resources.policies import role_policy
from .resources.repository import Repository, apply_repository, plan_repository, read_repository
from .resources.role import apply_role, other_policies, plan_role, read_role, role_facts
from .resources.staging import apply_expiry, plan_expiry, read_expiry
from .resources.version import apply_version, newest_of, plan_version, versions
from .verify import NETWORK_S, PICTURES, verify_answers, version_asker

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client


READABLE_VERSIONS = 10  # the role can read the models of this many versions, so that `rollback` need not change it

Bar = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


class DeployableImage(Protocol):
    """The container image to deploy. uri: repository@sha256:..., or repository:tag in a plan if it is not pushed yet."""

    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def outcome(self) -> Outcome: ...  # noqa: D102


@dataclass(frozen=True)
class ImageSource:
    """How to get the container image. plan: takes the repository URI ("" if it does not exist), returns what `push` would."""

    plan: Callable[[str], DeployableImage]
    push: Callable[[], DeployableImage]


@dataclass(frozen=True)
class DeploymentClients:
    """The AWS clients of a deployment.

    invoker: returns a client that waits this many seconds for a response and never retries.
    ecr: for the project's repository; None if the container image is in another one.
    """

    functions: LambdaClient
    iam: IAMClient
    logs: CloudWatchLogsClient
    s3: S3Client
    invoker: Callable[[float], LambdaClient]
    ecr: ECRClient | None = None


@dataclass(frozen=True)
class DeploymentTools:
    """What a deployment needs besides AWS. embedded: predicts with the same model file in this process."""

    image: ImageSource
    embedded: Target
    waiter: Waiter
    bar: Bar


@dataclass(frozen=True)
class DeploymentSpec:
    """What to deploy."""

    config: Config
    file: ModelFile
    account: Account
    create_bucket: bool = False

    @property
    def names(self) -> Names:
        """Return the names of the project's resources."""
        return Names(self.config.project)

    @property
    def model_uri(self) -> str:
        """Return the path or S3 URI from which the function loads its model."""
        if self.config.model_source == "image":
            return MODEL_PATH
        return self.model.uri

    @property
    def model(self) -> ModelObject:
        """Return the model as an object in the bucket."""
        config = self.config
        return ModelObject(self.file, config.bucket, object_key(self.file, config.prefix), config.kms_key)


@dataclass(frozen=True)
class Deployment:
    """What is deployed, or would be. url: "" if there is no function URL."""

    function: str
    alias: str
    version: str
    image: str
    model: str
    url: str
    steps: tuple[StepResult, ...]


@dataclass
class _StepValues:
    """The values that one step produces and later steps read.

    They start as the planned values; a step overwrites its own when it is applied. image: URI. role: ARN. version: number.
    verify_again: verify a version that already has traffic, because the role, model or function was changed.
    """

    image: str
    role: str
    version: str = ""
    url: str = ""
    verify_again: bool = False


@dataclass(frozen=True)
class DeploymentPlan:
    """The steps of a deployment, which `deploy` carries out."""

    spec: DeploymentSpec
    clients: DeploymentClients
    plan: Plan
    values: _StepValues

    def preview(self) -> Deployment:
        """Return what would be deployed."""
        return self.deployment(self.plan.preview())

    def deployment(self, steps: tuple[StepResult, ...]) -> Deployment:
        """Return what is deployed after these steps."""
        values = self.values
        function, model = self.spec.names.function, self.spec.model_uri
        return Deployment(function, ALIAS, values.version, values.image, model, values.url, steps)

    def try_image(self) -> None:
        """Let Lambda check the container image without changing anything. Raises RemoteError."""
        values, spec = self.values, self.spec
        try_image(self.clients.functions, spec.names, function_config(spec, values.image, values.role))


@dataclass(frozen=True)
class _There:
    """The project's resources in AWS."""

    bucket: bool
    function: Function | None
    live: Alias | None
    published: Sequence[Document]
    newest: Function | None
    role: Document | None
    other_policies: Sequence[str]
    role_arn: str
    role_created: datetime | None
    log_group: Mapping[str, Any] | None
    repository: Repository | None


def deploy(planned: DeploymentPlan, report: Callable[[StepResult], None]) -> Deployment:
    """Apply the plan step by step. Raises MlinferError."""
    return planned.deployment(apply(planned.plan, report))


def plan_deployment(spec: DeploymentSpec, clients: DeploymentClients, tools: DeploymentTools) -> DeploymentPlan:
    """Return the steps of the deployment without changing anything.

    Raises MlinferError, also if the bucket is missing or a resource with one of our names belongs to another project.
    """
    there = _read(spec, clients)
    image = tools.image.plan(there.repository.uri if there.repository else "")
    values = _StepValues(image.uri, there.role_arn)
    # The role comes first because its policy names the bucket: `destroy` can then find the project's bucket even if the
    # deployment was killed before it tagged the bucket.
    steps = [_counted(_role(spec, clients.iam, there), values)]
    if spec.config.bucket:
        steps += _in_bucket(spec, clients.s3, tools.bar, there=there, values=values)
    ecr = clients.ecr
    if ecr and (there.repository or image.outcome == "created"):
        change = plan_repository(there.repository, spec.names)
        steps.append(Step("repository", change, lambda: apply_repository(ecr, spec.names).change))
    steps.append(Step("image", Change(image.outcome, image.uri), lambda: _push(tools.image, values)))
    steps.append(_log_group(spec, clients.logs, there))
    steps += _of_function(spec, clients, tools, there=there, values=values)
    return DeploymentPlan(spec, clients, Plan(tuple(steps)), values)


def _read(spec: DeploymentSpec, clients: DeploymentClients) -> _There:
    config, names, repository, bucket = spec.config, spec.names, None, False
    if config.bucket:
        bucket = require_bucket(clients.s3, config.bucket, names.project, create=spec.create_bucket)
    with explained(f"function {names.function}"):
        function = read_function(clients.functions, names)
        live, published = read_alias(clients.functions, names), versions(clients.functions, names)
        newest = newest_of(clients.functions, names, published)
    with explained(f"role {names.function}"):
        role = read_role(clients.iam, names)
        others = other_policies(clients.iam, names) if role else []
    with explained(f"log group {names.log_group}"):
        log_group = read_log_group(clients.logs, names)
    if clients.ecr:
        repository = read_repository(clients.ecr, names)
    arn, created = role_facts(clients.iam, spec.account, names)
    return _There(
        bucket, function, live, published, newest, role, others, arn, created, log_group, repository=repository
    )


def _counted(step: Step, values: _StepValues) -> Step:
    """Return the step, extended to request verification if it changes, or would change, anything."""
    values.verify_again |= _does_something(step.change)

    def counted() -> Change:
        change = step.apply()
        values.verify_again |= _does_something(change)
        return change

    return Step(step.name, step.change, counted)


def _does_something(change: Change) -> bool:
    return change.outcome in ("created", "changed")


def _role(spec: DeploymentSpec, iam: IAMClient, there: _There) -> Step:
    config, names, models = spec.config, spec.names, _models(spec, there.published, there.live)
    policy = role_policy(
        spec.account, names, models=models, prefixes=input_prefixes(config, names), kms_key=config.kms_key
    )
    change = plan_role(there.role, policy, names=names, others=there.other_policies)
    return Step("role", change, lambda: apply_role(iam, names, policy))


def _in_bucket(spec: DeploymentSpec, s3: S3Client, bar: Bar, *, there: _There, values: _StepValues) -> list[Step]:
    """Return the steps that create the bucket if requested, upload the model, and let staged images expire."""
    config, names, bucket = spec.config, spec.names, spec.config.bucket
    held = read_bucket(s3, names, bucket) if there.bucket else None

    def create_or_close() -> Change:
        account = spec.account.id
        if spec.create_bucket and ensure_bucket(
            s3, bucket, project=config.project, owner=lambda: account, kms_key=config.kms_key
        ):
            return Change("created", f"s3://{bucket}")
        return apply_bucket(s3, names, bucket)

    def bring_model() -> Change:
        with bar(spec.file.bytes, "Uploading") as advance:
            uploaded = upload(s3, spec.model, advance).outcome == "unchanged"
        return plan_model(spec.model, uploaded=uploaded)

    steps = [Step("bucket", plan_bucket(held, bucket), create_or_close)]
    if config.model_source == "s3":
        uploaded = there.bucket and is_uploaded(s3, spec.model)
        steps.append(_counted(Step("model", plan_model(spec.model, uploaded=uploaded), bring_model), values))
    change = plan_expiry(read_expiry(s3, bucket) if there.bucket else [], names)
    return [*steps, Step("staging", change, lambda: apply_expiry(s3, bucket, names))]


def _push(source: ImageSource, values: _StepValues) -> Change:
    pushed = source.push()
    values.image = pushed.uri
    return Change(pushed.outcome, pushed.uri)


def _log_group(spec: DeploymentSpec, logs: CloudWatchLogsClient, there: _There) -> Step:
    names, days = spec.names, spec.config.log_days
    change = plan_log_group(there.log_group, names, days)
    return Step("log group", change, lambda: apply_log_group(logs, names, days))


def _of_function(
    spec: DeploymentSpec, clients: DeploymentClients, tools: DeploymentTools, *, there: _There, values: _StepValues
) -> list[Step]:
    """Return the steps that update the function, publish and verify a version, and move traffic to it."""
    names, functions, waiter, kind = spec.names, clients.functions, tools.waiter, spec.config.url

    def configure() -> Change:
        values.role, created = role_facts(clients.iam, spec.account, names)
        to_be = function_config(spec, values.image, values.role)
        return apply_function(functions, names, to_be, waiter=waiter, role_created=created)

    def publish() -> Change:
        to_be = function_config(spec, values.image, values.role)
        change, values.version = apply_version(functions, names, to_be, waiter=waiter)
        return change

    def is_verified() -> bool:
        return there.live is not None and there.live.version == values.version and not values.verify_again

    def ask() -> Change:
        if is_verified():
            return _verified_before(values.version)
        invoker = clients.invoker(spec.config.timeout + NETWORK_S)
        asker = version_asker(invoker, names, version=values.version, waiter=waiter)
        return Change(
            "created", verify_answers(asker, tools.embedded, sha256=spec.file.sha256, pictures=draw(PICTURES))
        )

    def give_url() -> Change:
        change, values.url = apply_url(functions, names, kind)
        return change

    to_be = function_config(spec, values.image, values.role)
    function = plan_function(there.function, to_be, names=names, role_created=there.role_created)
    version, values.version = plan_version(there.newest, to_be)
    with explained(f"URL of function {names.function}"):
        values.url, held = read_url(functions, names)
    configured = _counted(Step("function", function, configure), values)
    asked = Change("created", f"version {values.version} with {PICTURES} images")
    return [
        configured,
        Step("version", version, publish),
        Step("proof", _verified_before(values.version) if is_verified() else asked, ask),
        Step(
            "alias",
            plan_alias(there.live, values.version),
            lambda: apply_alias(functions, names, there=there.live, version=values.version),
        ),
        Step("url", plan_url(held, kind), give_url),
    ]


def _verified_before(version: str) -> Change:
    return Change("skipped", f"version {version} is already verified")


def function_config(spec: DeploymentSpec, image: str, role: str) -> FunctionConfig:
    """Return the function's settings from the configuration and model file. role: an ARN."""
    config = spec.config
    return FunctionConfig(
        image=image,
        arch=config.arch,
        role=role,
        memory=config.memory,
        timeout=config.timeout,
        tmp=config.tmp,
        environment=_environment(spec),
        concurrency=config.concurrency or None,
    )


def _environment(spec: DeploymentSpec) -> dict[str, str]:
    """Return the function's environment variables, without defaults: see `lambda_src.settings`."""
    where = {"MLINFER_MODEL_URI": spec.model_uri, "MLINFER_MODEL_SHA256": spec.file.sha256}
    if endpoint := s3_endpoint(spec.account.region):
        where["AWS_ENDPOINT_URL_S3"] = endpoint
    prefixes = " ".join(input_prefixes(spec.config, spec.names))
    return {**where, **spec.config.handler_environment(), **({"MLINFER_INPUT_PREFIXES": prefixes} if prefixes else {})}


def input_prefixes(config: Config, names: Names) -> list[str]:
    """Return the S3 prefixes the function can read images from: the configured ones and the staging prefix."""
    configured = config.input_prefixes.replace(",", " ").split()
    return configured + ([f"s3://{config.bucket}/{names.staging_prefix}"] if config.bucket else [])


def _models(spec: DeploymentSpec, published: Sequence[dict[str, Any]], live: Alias | None) -> set[str]:
    """Return the S3 models the role must be able to read: the new one, the deployed one and those of recent versions.

    The result is the same before and after the new version is published, so a second deployment changes nothing.
    """
    others = [version for version in published if model_uri(version) != spec.model_uri]
    kept = [version for version in others if live and version["Version"] == live.version]
    uris = [model_uri(version) for version in [*kept, *others[1 - READABLE_VERSIONS :]]]
    return {uri for uri in [spec.model_uri, *uris] if uri.startswith("s3://")}


def model_uri(version: dict[str, Any]) -> str:
    """Return the model URI of a version from its Lambda configuration."""
    return str(version.get("Environment", {}).get("Variables", {}).get("MLINFER_MODEL_URI", ""))
