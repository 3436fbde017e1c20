"""Look at what mlinfer needs, and say of each thing what was found and what to do about it.

The checks run at the same time, each by itself and with clients of its own: one that fails, or that nothing answers, is
one finding and holds up no other.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from lambda_src.settings import MB_PER_VCPU

from ..clients.aws import Client, is_aws
from ..clients.aws_errors import error_code, explained
from ..clients.docker import Engine
from ..cloud.resources.policies import DOCTOR
from ..config import Config
from ..errors import MlinferError
from ..model import modelfile
from ..model.path import model_path
from ..model.runtime import IMAGE_ONNXRUNTIME
from ..names import Account

ANSWER_S = 8.0  # for one answer of the Engine or of AWS
DEADLINE_S = 25.0  # for all checks together
ROOM_BYTES = 3 * 10**9  # a build and what it replaces
NEW_ACCOUNT_MB = 3008  # what a new account's functions may be limited to
ALWAYS_UNRESERVED = 100  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html

_OF_AWS = ("credentials", "endpoints", "quotas", "permissions", "bucket")
_SERVICES = ("sts", "s3", "ecr", "lambda", "iam")
# What the check of the credentials tells, and the others need not repeat.
_OF_CREDENTIALS = {"no_credentials", "no_region", "expired_credentials", "invalid_credentials", "invalid_aws_setting"}
_OF_CREDENTIALS |= {"mfa_needed", "missing_library"}

State = Literal["ok", "warning", "missing"]
PolicyFor = Callable[[Account], Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """What one check found. state: "missing" is needed and not there; "warning" may matter or is not known."""

    check: str
    state: State
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Tools:
    """How the checks get what they ask. policy: what the deployer must be allowed in an account."""

    connect: Callable[[], Engine]
    make_client: Callable[[str], Client]
    policy: PolicyFor


def examine(config: Config, tools: Tools, deadline_s: float = DEADLINE_S, *, uses_aws: bool = True) -> list[Finding]:
    """Run every check and return what was found, in an order that a person would look in.

    uses_aws: False where nothing of AWS is set up or asked for; what is missing there is then only a warning.
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
    late = f"no answer within {deadline_s:.0f} s"
    remedy = "Check the network and the proxy, then look again."
    findings = [item for name in checks for item in found.get(name, [Finding(name, "warning", late, remedy)])]
    return findings if uses_aws else [_optional(finding) for finding in findings]


def _optional(finding: Finding) -> Finding:
    """Return the finding of somebody who does not use AWS: nothing there is needed."""
    if finding.check not in _OF_AWS or finding.state != "missing":
        return finding
    return replace(finding, state="warning", finding=f"{finding.finding} (only commands that use AWS need it)")


def _run(name: str, check: Callable[[], Iterator[Finding]], found: dict[str, list[Finding]]) -> None:
    try:
        found[name] = list(check())
    except MlinferError as error:
        if name != "credentials" and error.code in _OF_CREDENTIALS:
            found[name] = [Finding(name, "warning", "not known without credentials and a Region")]
        elif name != "docker" and error.code.startswith("docker"):
            found[name] = [Finding(name, "warning", "not known without a Docker Engine")]
        else:
            found[name] = [Finding(name, "missing", str(error), error.hint)]
    except Exception as error:  # one check's defect must not keep the others from the user
        said = f"this check failed, a defect of mlinfer: {type(error).__name__}: {error}"
        found[name] = [Finding(name, "warning", said, "Please report it with this line and `mlinfer --version`.")]


# This machine


def check_model(config: Config) -> Iterator[Finding]:
    """Look whether the configured model is there, can predict, and suits the image's onnxruntime. Raises MlinferError."""
    file = modelfile.read_model_file(model_path(config))
    named = f"{file.path.name}, {file.bytes:,} bytes"
    if file.metadata is None:
        remedy = f"Stamp it: mlinfer export {file.path} --labels FILE --preprocess imagenet|none|JSON"
        yield Finding("model", "missing", f"{named}: it does not say what its labels and pre-processing are", remedy)
    elif reason := modelfile.image_refusal(file):
        remedy = f"Convert it for the image's onnxruntime: mlinfer export {file.path}"
        yield Finding("model", "missing", f"{named}: {reason}", remedy)
    else:
        labels = f"{len(file.metadata.labels)} labels"
        yield Finding(
            "model", "ok", f"{file.metadata.name} ({named}, {labels}), onnxruntime {IMAGE_ONNXRUNTIME} takes it"
        )


def check_docker(engine: Engine) -> Iterator[Finding]:
    """Describe the Engine, the docker command beside it, and the room that images have. Raises MlinferError."""
    version, info = engine.version(), engine.describe()
    store = ", containerd's image store" if "containerd.snapshotter" in str(info.get("DriverStatus")) else ""
    server = (
        f"Engine {version.get('Version')} (API {version.get('ApiVersion')}, {version.get('Os')}/{version.get('Arch')})"
    )
    yield Finding("docker", "ok", f"{server}, {_command()}, storage {info.get('Driver')}{store}")
    if engine.remote:
        remedy = "For run-local use an Engine on this machine, or --no-docker."
        yield Finding("docker", "warning", f"it runs on another machine ({engine.remote}): build and push work", remedy)
        return
    try:
        free = shutil.disk_usage(str(info.get("DockerRootDir"))).free
    except OSError:  # it runs in Docker Desktop's virtual machine
        return
    room = f"{free / 10**9:.1f} GB free for images"
    if free < ROOM_BYTES:
        yield Finding("docker", "warning", room, "Make room, for example: docker system prune")
    else:
        yield Finding("docker", "ok", room)


def _command() -> str:
    """Describe the docker command, which mlinfer does not need."""
    path = shutil.which("docker")
    if not path:
        return "no docker command (not needed)"
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=ANSWER_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "a docker command that does not answer (not needed)"
    return f"command {said.stdout.strip().removeprefix('Docker version ').partition(',')[0] or 'unknown'}"


def check_base_image(engine: Engine, config: Config) -> Iterator[Finding]:
    """Look whether the base image is here, or its registry in reach, for the configured architecture."""
    here = engine.find_image(config.base_image)
    if here:
        architectures, place = [here.arch], "here"
    else:
        try:
            architectures, place = engine.find_in_registry(config.base_image), "in its registry"
        except MlinferError as error:
            yield Finding("base image", "missing", str(error), error.hint)
            return
    if config.arch in architectures or not architectures:
        yield Finding("base image", "ok", f"{config.base_image} is {place}, {config.arch}")
    else:
        remedy = f"docker pull --platform linux/{'arm64' if config.arch == 'arm64' else 'amd64'} {config.base_image}"
        said = f"{config.base_image} is {place} for {', '.join(architectures)}, and arch is {config.arch}"
        yield Finding("base image", "missing", said, remedy)


def check_machine(engine: Engine, config: Config) -> Iterator[Finding]:
    """Compare the Engine's machine with what the configured memory size gives in Lambda."""
    info = engine.describe()
    cores, memory = int(info.get("NCPU", 0)), int(info.get("MemTotal", 0)) // 2**20
    here, share = f"{cores} cores, {memory:,} MB", config.memory / MB_PER_VCPU
    if memory < config.memory:
        remedy = "Give the Engine's machine more memory, or lower memory in mlinfer.toml."
        yield Finding("machine", "warning", f"{here}: less than the function's {config.memory:,} MB", remedy)
    elif cores < share:
        remedy = "run-local is slower here than Lambda: measure there."
        yield Finding("machine", "warning", f"{here}: the function has {share:.1f} vCPUs in Lambda", remedy)
    else:
        yield Finding("machine", "ok", f"{here}: enough for the function's {config.memory:,} MB and {share:.1f} vCPUs")


# AWS


def check_identity(sts: Client) -> Iterator[Finding]:
    """Say who asks, and where. Raises MlinferError."""
    with explained("the identity of these credentials"):
        identity = sts.get_caller_identity()
    where = f"account {identity['Account']}, Region {sts.meta.region_name}"
    yield Finding("credentials", "ok", f"{identity['Arn']}, {where}")


def check_endpoints(clients: list[Client]) -> Iterator[Finding]:
    """Name the services that boto3 is told to look for elsewhere than at AWS, by their host alone."""
    moved: dict[str, list[str]] = {}
    for client in clients:
        if not is_aws(client):
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            moved.setdefault(host, []).append(client.meta.service_model.service_name)
    for host, services in moved.items():
        remedy = "Is that meant? It comes from AWS_ENDPOINT_URL... or the profile's endpoint_url."
        yield Finding("endpoints", "warning", f"{', '.join(services)} at {host}, not at AWS", remedy)
    if not moved:
        yield Finding("endpoints", "ok", "AWS's own")


def check_quotas(functions: Client, config: Config) -> Iterator[Finding]:
    """Compare what the account may have with the configuration. What it may not ask is not known."""
    try:
        with explained("the account's quotas", "lambda:GetAccountSettings"):
            limits = functions.get_account_settings()["AccountLimit"]
    except MlinferError as error:
        if error.code in _OF_CREDENTIALS:
            raise
        yield Finding("quotas", "warning", f"not known: {error}", error.hint)
        return
    total, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    said = f"concurrency {total:,}, of which {free:,} are not reserved"
    kept = min(ALWAYS_UNRESERVED, total)
    remedy = "Ask for more in AWS's Service Quotas console, or lower concurrency in mlinfer.toml."
    if config.concurrency and config.concurrency > free - kept:
        wanted = f"; {config.concurrency:,} are to be reserved, and {kept} must stay free"
        yield Finding("quotas", "warning", said + wanted, remedy)
    else:
        yield Finding("quotas", "ok", said)
    if config.memory > NEW_ACCOUNT_MB:
        said = f"a new account may be limited to {NEW_ACCOUNT_MB:,} MB; AWS tells only when the function is made"
        yield Finding("quotas", "warning", f"memory {config.memory:,} MB: {said}", "Ask AWS's support to lift it.")


def check_permissions(sts: Client, iam: Client, policy_for: PolicyFor) -> Iterator[Finding]:
    """Let IAM simulate each action that deploying needs; without that right nothing is known, which is no failure."""
    try:
        with explained("the simulation of permissions", "iam:SimulatePrincipalPolicy and iam:GetRole"):
            arn = str(sts.get_caller_identity()["Arn"])
            _, partition, _, _, account, who = arn.split(":", 5)
            if who == "root":
                said = "the account's root user may do everything"
                yield Finding("permissions", "warning", said, "Use a user or role of your own for this.")
                return
            principal = _principal(iam, partition, account, who)
            refused = sorted(_refused(iam, principal, policy_for(Account(account, sts.meta.region_name, partition))))
    except MlinferError as error:
        if error.code in _OF_CREDENTIALS:
            raise
        yield Finding("permissions", "warning", f"not known: {error}", error.hint)
        return
    if refused:
        remedy = "Ask for what `mlinfer doctor --policy` prints."
        yield Finding("permissions", "missing", f"refused by IAM's simulation: {', '.join(refused)}", remedy)
    else:
        yield Finding("permissions", "ok", "all that is needed, by IAM's simulation")


def _principal(iam: Client, partition: str, account: str, who: str) -> str:
    """Return the ARN that IAM simulates for: of a session, its role's, whose path only IAM knows."""
    if not who.startswith("assumed-role/"):
        return f"arn:{partition}:iam::{account}:{who}"
    name = who.split("/")[1]
    try:
        return str(iam.get_role(RoleName=name)["Role"]["Arn"])
    except ClientError as error:
        if error_code(error) != "AccessDenied":
            raise
        return f"arn:{partition}:iam::{account}:role/{name}"


def _refused(iam: Client, principal: str, policy: Mapping[str, Any]) -> set[str]:
    """Return the actions of a policy that the principal may not do on the resources beside them."""
    refused = set()
    for statement in policy["Statement"]:
        if statement["Sid"].startswith(DOCTOR):
            continue  # what this check itself needs, and says if it lacks it
        entries = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for condition in statement.get("Condition", {}).values()
            for key, value in condition.items()
        ]
        pages = iam.get_paginator("simulate_principal_policy").paginate(
            PolicySourceArn=principal,
            ActionNames=statement["Action"],
            ResourceArns=statement["Resource"],
            ContextEntries=entries,
        )
        for page in pages:
            for result in page["EvaluationResults"]:
                if result["EvalDecision"] != "allowed":
                    refused.add(str(result["EvalActionName"]))
    return refused


def check_bucket(make_client: Callable[[str], Client], config: Config) -> Iterator[Finding]:
    """Look whether the bucket of the models is there, and in the function's Region. Raises MlinferError."""
    if not config.bucket:
        needed = config.model_source == "s3"
        remedy = 'Set bucket in mlinfer.toml, or model_source = "image".' if needed else ""
        yield Finding("bucket", "missing" if needed else "ok", f'none; model_source is "{config.model_source}"', remedy)
        return
    s3, name = make_client("s3"), f"s3://{config.bucket}"
    try:
        with explained(name, "s3:ListBucket on the bucket"):
            try:
                answer = s3.head_bucket(Bucket=config.bucket)
            except ClientError as error:
                if error_code(error) == "404":
                    remedy = f"Make it: mlinfer upload --bucket {config.bucket} --create-bucket"
                    yield Finding("bucket", "missing", f"there is no {name}", remedy)
                    return
                raise
    except MlinferError as error:
        yield Finding("bucket", "missing", str(error), error.hint)
        return
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:
        remedy = f"Work in {region} (--region, AWS_DEFAULT_REGION), or use a bucket of {s3.meta.region_name}."
        yield Finding("bucket", "missing", f"{name} is in {region}, the function in {s3.meta.region_name}", remedy)
    else:
        yield Finding("bucket", "ok", f"{name}, {region}")
