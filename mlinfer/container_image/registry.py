"""Bring the image to ECR, into a repository of the project's own, and read back what Lambda will be given.

What the lifecycle policy may delete. ECR's rules know tags, ages and numbers; they cannot know which digest a version of
the function refers to, and any rule by age or number could one day take the one that is live. So ours touches only what
has no tag. Each push has a tag of its own that cannot move (tags are immutable), and what an index refers to ECR does not
expire before the index; so nothing that was pushed whole is ever deleted by ECR, only what a push that was cut short left.
Images that no version uses any more are for whoever knows the versions to delete.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/LifecyclePolicies.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from ..clients.aws import Client
from ..clients.aws_errors import error_code, explained
from ..clients.docker import Engine
from ..clients.ownership import Owner, as_mapping, owner_of
from ..cloud.plan import Change, compare
from ..errors import MissingError, MlinferError, RemoteError, UsageError, VerificationError
from ..names import Names
from .docker_build import BuiltImage
from .manifest import Login, Registry, RemoteImage

MAX_IMAGE_BYTES = 10 * 2**30  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
UNTAGGED_DAYS = 14

_OURS = "mlinfer: "  # begins the description of each of our lifecycle rules
_SID = "MlinferLambdaPull"
_ENSURE = (
    "ecr:DescribeRepositories, ecr:CreateRepository, ecr:TagResource, ecr:ListTagsForResource, "
    "ecr:PutImageTagMutability, ecr:PutImageScanningConfiguration, ecr:GetLifecyclePolicy, ecr:PutLifecyclePolicy, "
    "ecr:GetRepositoryPolicy and ecr:SetRepositoryPolicy on the repository"
)

Outcome = Literal["made", "changed", "unchanged", "kept"]
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Repository:
    """A repository of ECR. outcomes: of the repository itself, its lifecycle and its policy; "kept" is somebody else's."""

    uri: str
    arn: str
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Pushed:
    """An image in ECR as Lambda is given it. uri: REPOSITORY@digest. bytes: of its layers, compressed."""

    uri: str
    digest: str
    tag: str
    arch: str
    outcome: Literal["pushed", "unchanged"]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a push would give. uri: REPOSITORY@digest if it is there, else REPOSITORY:tag."""

    uri: str
    outcome: Literal["made", "unchanged"]


def ensure_repository(ecr: Client, names: Names) -> Repository:
    """Make the project's repository, or finish or mend one that is there, writing only what differs.

    Tags are immutable, images are scanned on push, Lambda may pull for the project's function. Raises RemoteError,
    MissingError, UsageError.
    """
    with explained(f"the ECR repository {names.image}", _ENSURE):
        found = read_repository(ecr, names)
        outcome: Outcome = "unchanged"
        if found is None:
            found, outcome = _create_repository(ecr, names), "made"
        else:
            outcome = "changed" if _mend_repository(ecr, found) else "unchanged"
        arn = str(found["repositoryArn"])
        lifecycle = _ensure_lifecycle(ecr, names.image)
        policy = _ensure_policy(ecr, names.image, pull_statement(arn, names.function))
    return Repository(found["repositoryUri"], arn, {"repository": outcome, "lifecycle": lifecycle, "policy": policy})


def mend_repository(ecr: Client, names: Names, *, dry_run: bool = False) -> Change | None:
    """Bring a repository that is there to the settings of a new one; None without one. Raises MlinferError."""
    with explained(f"the ECR repository {names.image}", _ENSURE):
        found = read_repository(ecr, names)
        if found is None:
            return None
        statement = pull_statement(str(found["repositoryArn"]), names.function)
        lifecycle, ours = lifecycle_policy(), [s for s in _read_policy(ecr, names.image)[1] if s.get("Sid") == _SID]
        held = _read_lifecycle(ecr, names.image)
    wanted = {"immutable": True, "scan_on_push": True, "policy": [_in_order(statement)], "lifecycle": lifecycle}
    there = {
        "immutable": found.get("imageTagMutability") == "IMMUTABLE",
        "scan_on_push": bool(found.get("imageScanningConfiguration", {}).get("scanOnPush")),
        "policy": [_in_order(statement) for statement in ours],
        "lifecycle": lifecycle if held and not _is_ours(held) else held,
    }
    change = compare("repository", there, wanted, names.image)
    if change.outcome != "unchanged" and not dry_run:
        ensure_repository(ecr, names)
    return change


def read_repository(ecr: Client, names: Names) -> dict[str, Any] | None:
    """Return the project's repository; None without one. Raises RemoteError if it is not ours, ClientError."""
    found = _find_repository(ecr, names.image)
    if found:
        owner_of_repository(ecr, names, found).require_ours()
    return found


def owner_of_repository(ecr: Client, names: Names, found: Mapping[str, Any]) -> Owner:
    """Return who manages the repository. Raises ClientError."""
    arn, permission = found["repositoryArn"], "ecr:ListTagsForResource"
    return owner_of(
        "repository",
        names.image,
        names,
        permission,
        lambda: as_mapping(ecr.list_tags_for_resource(resourceArn=arn)["tags"]),
    )


def lifecycle_policy() -> dict[str, Any]:
    """Return the rule that spares each image with a tag, see the module's first lines."""
    selection = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days"}
    rule = {"rulePriority": 1, "description": f"{_OURS}what has no tag is left of a push that was cut short"}
    return {"rules": [rule | {"selection": selection | {"countNumber": UNTAGGED_DAYS}, "action": {"type": "expire"}}]}


def pull_statement(repository_arn: str, function: str) -> dict[str, Any]:
    """Return what lets Lambda pull for this one function of the repository's account and Region.

    https://docs.aws.amazon.com/lambda/latest/dg/images-create.html#gettingstarted-images-permissions
    """
    _, partition, _, region, account, _ = repository_arn.split(":", 5)
    source = f"arn:{partition}:lambda:{region}:{account}:function:{function}"
    return {
        "Sid": _SID,
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Condition": {"StringLike": {"aws:sourceArn": [source, f"{source}:*"]}},  # the function, and its versions
    }


def push(engine: Engine, ecr: Client, repository: Repository, built: BuiltImage, arch: str, show: Show) -> Pushed:
    """Bring the image into the repository unless it is there, and check what lies there against what Lambda takes.

    Its tag there is the local one; where that names another image (built anew from the same files), the image's id is
    added. show: takes a layer's name, the bytes sent and those to send. Raises MissingError, RemoteError, UsageError,
    VerificationError.
    """
    check_image(engine, built, arch)
    login = log_in(ecr)
    registry = _registry(ecr, repository, login)
    tag, image = _find_pushed(registry, built.id, built.tag, arch)
    outcome: Literal["pushed", "unchanged"] = "unchanged"
    if image is None:
        try:
            digest = _send(engine, built, repository.uri, tag, login, show)
        except _ExpiredError:
            login = log_in(ecr)
            digest = _send(engine, built, repository.uri, tag, login, show)
        image, outcome = _registry(ecr, repository, login).find_image(digest or tag, arch), "pushed"
    if image is None:
        message = f"{repository.uri}:{tag} was pushed, and the registry does not have it"
        raise RemoteError("not_confirmed", message, "Push again.")
    return Pushed(f"{repository.uri}@{image.digest}", image.digest, tag, image.arch, outcome, image.bytes)


def plan(engine: Engine, ecr: Client, names: Names, tag: str, arch: str) -> Plan:
    """Say what `push` would find and do for an image of that local tag, which may not be built yet; change nothing.

    Raises RemoteError, MissingError, UsageError, VerificationError.
    """
    with explained(f"the ECR repository {names.image}", _ENSURE):
        found = read_repository(ecr, names)
    here = engine.find_image(tag)
    name = tag.rpartition(":")[2]
    if found is None or here is None:
        return Plan(f"{found['repositoryUri'] if found else names.image}:{name}", "made")
    repository = Repository(found["repositoryUri"], found["repositoryArn"], {})
    held, image = _find_pushed(_registry(ecr, repository, log_in(ecr)), here.id, tag, arch)
    return Plan(f"{repository.uri}@{image.digest}", "unchanged") if image else Plan(f"{repository.uri}:{held}", "made")


def check_image(engine: Engine, built: BuiltImage, arch: str) -> None:
    """Refuse before anything is sent what Lambda would refuse after. Raises UsageError, VerificationError."""
    if built.arch != arch:
        message = f"the image {built.tag} is for {built.arch}, and the function's architecture is {arch}"
        raise VerificationError("wrong_architecture", message, f"Build for it: mlinfer build --arch {arch}")
    size = sum(size for _, size in engine.layers(built.tag))
    if size > MAX_IMAGE_BYTES:
        message = f"the image has {size / 2**30:.1f} GB unpacked, and Lambda takes {MAX_IMAGE_BYTES // 2**30} at most"
        raise UsageError("image_too_large", message, 'Keep the model in S3: model_source = "s3" in mlinfer.toml.')


def log_in(ecr: Client) -> Login:
    """Get a token that opens the registry for twelve hours. Raises RemoteError, MissingError, UsageError."""
    with explained("the token of the ECR registry", "ecr:GetAuthorizationToken"):
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    username, _, password = base64.b64decode(token).decode().partition(":")
    return Login(username, password)


# The repository


def _find_repository(ecr: Client, name: str) -> dict[str, Any] | None:
    with _unless("RepositoryNotFoundException"):
        found: dict[str, Any] = ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
        return found
    return None


def _create_repository(ecr: Client, names: Names) -> dict[str, Any]:
    try:
        ecr.create_repository(
            repositoryName=names.image,
            tags=_as_list(names.tags),
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
        )
    except ClientError as error:  # made by another run at the same time
        if error_code(error) != "RepositoryAlreadyExistsException" or read_repository(ecr, names) is None:
            raise
    found: dict[str, Any] = ecr.describe_repositories(repositoryNames=[names.image])["repositories"][0]
    return found


def _mend_repository(ecr: Client, found: Mapping[str, Any]) -> bool:
    """Bring the repository's own settings to what a new one has; return whether any differed."""
    name, changed = found["repositoryName"], False
    if found.get("imageTagMutability") != "IMMUTABLE":
        ecr.put_image_tag_mutability(repositoryName=name, imageTagMutability="IMMUTABLE")
        changed = True
    if not found.get("imageScanningConfiguration", {}).get("scanOnPush"):
        ecr.put_image_scanning_configuration(repositoryName=name, imageScanningConfiguration={"scanOnPush": True})
        changed = True
    return changed


def _ensure_lifecycle(ecr: Client, name: str) -> Outcome:
    """Set our rule where there is none; rules that are somebody else's stay."""
    wanted, there = lifecycle_policy(), _read_lifecycle(ecr, name)
    if there == wanted:
        return "unchanged"
    if there and not _is_ours(there):
        return "kept"
    ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=json.dumps(wanted))
    return "changed" if there else "made"


def _read_lifecycle(ecr: Client, name: str) -> dict[str, Any] | None:
    with _unless("LifecyclePolicyNotFoundException"):
        found: dict[str, Any] = json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
        return found
    return None


def _is_ours(lifecycle: Mapping[str, Any]) -> bool:
    return all(rule.get("description", "").startswith(_OURS) for rule in lifecycle["rules"])


def _ensure_policy(ecr: Client, name: str, wanted: dict[str, Any]) -> Outcome:
    """Set our statement among those of the repository's policy; the others stay."""
    there, statements = _read_policy(ecr, name)
    ours = [statement for statement in statements if statement.get("Sid") == _SID]
    if [_in_order(statement) for statement in ours] == [_in_order(wanted)]:
        return "unchanged"
    others = [statement for statement in statements if statement not in ours]
    text = json.dumps(there | {"Statement": [*others, wanted]})
    ecr.set_repository_policy(repositoryName=name, policyText=text)
    return "changed" if statements else "made"


def _read_policy(ecr: Client, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the repository's policy and its statements."""
    there: dict[str, Any] = {"Version": "2012-10-17", "Statement": []}
    with _unless("RepositoryPolicyNotFoundException"):
        there = json.loads(ecr.get_repository_policy(repositoryName=name)["policyText"])
    return there, there["Statement"] if isinstance(there["Statement"], list) else [there["Statement"]]


def _in_order(statement: Any) -> Any:
    """Return a part of a policy in a form that does not depend on how AWS writes lists."""
    if isinstance(statement, Mapping):
        return {name: _in_order(value) for name, value in statement.items()}
    return sorted(statement) if isinstance(statement, list) else [statement]


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


@contextmanager
def _unless(answer: str) -> Iterator[None]:
    """Pass over AWS's one code for something that is not there."""
    try:
        yield
    except ClientError as error:
        if error_code(error) != answer:
            raise


# The push


def _registry(ecr: Client, repository: Repository, login: Login) -> Registry:
    """Return the repository for reading, over the protocol that the token came by: HTTPS, but of an emulated AWS."""
    host, _, name = repository.uri.partition("/")
    return Registry(f"{urlsplit(ecr.meta.endpoint_url).scheme}://{host}/v2/{name}", login)


def _find_pushed(registry: Registry, image_id: str, local: str, arch: str) -> tuple[str, RemoteImage | None]:
    """Return the tag that this image has or is to have in the repository, and the image if it is there."""
    tag = local.rpartition(":")[2]
    try:
        image = registry.find_image(tag, arch)
        if image is None or image_id in image.ids:
            return tag, image
    except VerificationError:
        pass  # whatever has that tag, it is not this image, and the tag cannot move
    tag += f"-{image_id.removeprefix('sha256:')[:12]}"
    return tag, registry.find_image(tag, arch)


def _send(engine: Engine, built: BuiltImage, uri: str, tag: str, login: Login, show: Show) -> str:
    """Push under a name that the Engine has for as long as that takes, and return the digest that it reports."""
    engine.tag(built.tag, uri, tag)
    try:
        return _follow(engine.push(uri, tag, username=login.username, password=login.password), f"{uri}:{tag}", show)
    finally:
        engine.remove_image(f"{uri}:{tag}")


def _follow(reports: Iterable[Mapping[str, Any]], subject: str, show: Show) -> str:
    """Show each layer's progress and return the digest; a failed push raises nothing, it is one of the reports."""
    digest, sizes = "", dict[str, int]()
    for report in reports:
        if "error" in report:
            raise _refused(subject, str(report["error"]))
        digest = str((report.get("aux") or {}).get("Digest", digest))
        layer, detail = str(report.get("id", "")), report.get("progressDetail") or {}
        if report.get("status") == "Pushing" and detail.get("total"):
            sizes[layer] = int(detail["total"])
            show(layer, min(int(detail.get("current", 0)), sizes[layer]), sizes[layer])
        elif report.get("status") == "Pushed" and layer in sizes:
            show(layer, sizes[layer], sizes[layer])
    return digest


class _ExpiredError(RemoteError):
    """ECR no longer accepts the token."""


# What the Engine repeats of the registry's answer, or says of the way there, in lower case; the first that fits counts.
_REFUSALS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("token has expired",),
        "expired_token",
        "the registry's token has expired, and so had a fresh one",
        "Is the clock of this machine right?",
    ),
    (
        ("cannot be overwritten", "tag is immutable"),
        "tag_taken",
        "another push took the tag meanwhile",
        "Push again: it finds that image, or takes another tag.",
    ),
    (
        ("no basic auth credentials", "unauthorized", "authentication required", "incorrect username or password"),
        "registry_login",
        "the registry does not accept the token",
        "Is the Region right, and AWS_ENDPOINT_URL that of the registry's account?",
    ),
    (
        ("name unknown", "repository does not exist"),
        "no_repository",
        "the repository is not there any more",
        "Push again: it is made anew.",
    ),
    (
        ("denied", "forbidden"),
        "access_denied",
        "these credentials may not push there",
        "They need ecr:BatchCheckLayerAvailability, ecr:InitiateLayerUpload, ecr:UploadLayerPart, "
        "ecr:CompleteLayerUpload, ecr:PutImage, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository.",
    ),
    (("toomanyrequests", "rate exceeded"), "throttled", "ECR asks to slow down", "Try again in a minute."),
    (
        ("x509", "certificate", "http response to https"),
        "connection_failed",
        "the Docker Engine does not trust the registry's certificate",
        "A proxy's own certificate belongs into the trust store of the Engine's machine.",
    ),
    (
        ("dial tcp", "no such host", "lookup ", "timeout", "eof", "connection re", "broken pipe", "proxyconnect"),
        "connection_failed",
        "the Docker Engine does not reach the registry",
        "Check the network and proxy of the Engine, then push again: layers that have arrived are not sent twice.",
    ),
    (("unexpected http status: 5", "500 internal", "503 service"), "service_failed", "the registry failed", "Try again."),
)  # fmt: skip


def _refused(subject: str, said: str) -> MlinferError:
    """Explain why a push failed."""
    lower = said.lower()
    if "no space left" in lower:
        return MissingError("disk_full", f"{subject}: {said}", "Make room, for example: docker system prune")
    for words, code, reason, hint in _REFUSALS:
        if any(word in lower for word in words):
            kind = _ExpiredError if code == "expired_token" else RemoteError
            return kind(code, f"{subject}: {reason}: {said}", hint)
    return RemoteError("push_failed", f"{subject}: the push failed: {said}")
