"""The ECR repository of the project's container images, with its lifecycle policy and Lambda's permission to pull.

The lifecycle policy deletes only untagged images, which interrupted pushes leave. ECR does not know which images the
function's versions use, so a rule by age or number could delete the deployed one. Every complete push has its own
immutable tag, and ECR keeps the images that an index refers to.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/LifecyclePolicies.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained
from ...clients.ownership import Owner, as_mapping, owner_of
from ...names import Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


UNTAGGED_DAYS = 14

_OURS = "mlinfer: "  # begins the description of each of our lifecycle rules
_SID = "MlinferLambdaPull"
_PERMISSIONS = (
    "ecr:DescribeRepositories, ecr:CreateRepository, ecr:TagResource, ecr:ListTagsForResource, "
    "ecr:PutImageTagMutability, ecr:PutImageScanningConfiguration, ecr:GetLifecyclePolicy, ecr:PutLifecyclePolicy, "
    "ecr:GetRepositoryPolicy and ecr:SetRepositoryPolicy on the repository"
)

Outcome = Literal["created", "changed", "unchanged", "kept"]


@dataclass(frozen=True)
class Repository:
    """A repository that exists. policy: the whole policy; one statement is ours. lifecycle: None if it has none."""

    uri: str
    arn: str
    immutable: bool
    scans: bool
    policy: Document
    lifecycle: Document | None


@dataclass(frozen=True)
class AppliedRepository:
    """The repository as it is now. outcomes: of its settings, lifecycle and policy; "kept": not managed by mlinfer."""

    uri: str
    change: Change
    outcomes: Mapping[str, Outcome]


def read_repository(ecr: ECRClient, names: Names) -> Repository | None:
    """Return the project's repository; None if it does not exist. Raises RemoteError (also if it is not ours), MissingError."""
    with explained(f"ECR repository {names.image}", _PERMISSIONS):
        found = find_repository(ecr, names)
        if found is None:
            return None
        owner_of_repository(ecr, names, found).require_ours()
        return _read(ecr, found)


def plan_repository(there: Repository | None, names: Names) -> Change:
    """Return the change that gives the repository the settings of a new one."""
    wanted = {"immutable": True, "scan_on_push": True, "lifecycle": lifecycle_policy()}
    if there is None:
        return compare("repository", None, wanted, detail=names.image)
    wanted |= {"policy": [_in_order(pull_statement(there.arn, names.function))]}
    held = {
        "immutable": there.immutable,
        "scan_on_push": there.scans,
        "policy": [_in_order(statement) for statement in _ours(there)],
        "lifecycle": wanted["lifecycle"] if _is_kept(there) else there.lifecycle,
    }
    return compare("repository", held, wanted, detail=names.image)


def plan_parts(there: Repository | None, names: Names) -> dict[str, Outcome]:
    """Return the outcome of each part that is written separately: settings, lifecycle policy, repository policy."""
    if there is None:
        return {"repository": "created", "lifecycle": "created", "policy": "created"}
    lifecycle: Outcome = "changed" if there.lifecycle else "created"
    if there.lifecycle == lifecycle_policy():
        lifecycle = "unchanged"
    elif _is_kept(there):
        lifecycle = "kept"
    policy: Outcome = "changed" if _statements(there) else "created"
    if [_in_order(statement) for statement in _ours(there)] == [_in_order(pull_statement(there.arn, names.function))]:
        policy = "unchanged"
    settings: Outcome = "unchanged" if there.immutable and there.scans else "changed"
    return {"repository": settings, "lifecycle": lifecycle, "policy": policy}


def apply_repository(ecr: ECRClient, names: Names) -> AppliedRepository:
    """Create the project's repository, or update the settings that differ.

    Tags are immutable, images are scanned on push, Lambda may pull for the project's function. Raises RemoteError,
    MissingError, UsageError.
    """
    there = read_repository(ecr, names)
    change = plan_repository(there, names)
    with explained(f"ECR repository {names.image}", _PERMISSIONS):
        created = there is None
        there = there or _create(ecr, names)
        outcomes = plan_parts(there, names) | ({"repository": "created"} if created else {})
        if not created:
            _write_settings(ecr, names, there)
        if outcomes["lifecycle"] in ("created", "changed"):
            ecr.put_lifecycle_policy(repositoryName=names.image, lifecyclePolicyText=json.dumps(lifecycle_policy()))
        if outcomes["policy"] != "unchanged":
            others = [statement for statement in _statements(there) if statement.get("Sid") != _SID]
            statements = [*others, pull_statement(there.arn, names.function)]
            text = json.dumps(there.policy | {"Statement": statements})
            ecr.set_repository_policy(repositoryName=names.image, policyText=text)
    return AppliedRepository(there.uri, change, outcomes)


def find_repository(ecr: ECRClient, names: Names) -> Mapping[str, Any] | None:
    """Return ECR's description of the repository, None if it does not exist. Raises ClientError."""
    with _unless("RepositoryNotFoundException"):
        found: Mapping[str, Any] = ecr.describe_repositories(repositoryNames=[names.image])["repositories"][0]
        return found
    return None


def owner_of_repository(ecr: ECRClient, names: Names, found: Mapping[str, Any]) -> Owner:
    """Return who manages the repository. Raises ClientError."""
    arn, permission = found["repositoryArn"], "ecr:ListTagsForResource"
    return owner_of(
        "repository",
        names.image,
        names,
        permission=permission,
        read_tags=lambda: as_mapping(ecr.list_tags_for_resource(resourceArn=arn)["tags"]),
    )


def lifecycle_policy() -> dict[str, Any]:
    """Return the policy that deletes untagged images only; the module's docstring says why."""
    selection = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days"}
    rule = {"rulePriority": 1, "description": f"{_OURS}delete untagged images, which interrupted pushes leave behind"}
    return {"rules": [rule | {"selection": selection | {"countNumber": UNTAGGED_DAYS}, "action": {"type": "expire"}}]}


def pull_statement(repository_arn: str, function: str) -> dict[str, Any]:
    """Return the statement that lets Lambda pull for this function in the repository's account and Region.

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


def _read(ecr: ECRClient, found: Mapping[str, Any]) -> Repository:
    """Return the repository with its policies. found: ECR's description."""
    name, lifecycle = found["repositoryName"], None
    policy: Document = {"Version": "2012-10-17", "Statement": []}
    with _unless("LifecyclePolicyNotFoundException"):
        lifecycle = json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])
    with _unless("RepositoryPolicyNotFoundException"):
        policy = json.loads(ecr.get_repository_policy(repositoryName=name)["policyText"])
    return Repository(
        found["repositoryUri"],
        found["repositoryArn"],
        immutable=found.get("imageTagMutability") == "IMMUTABLE",
        scans=bool(found.get("imageScanningConfiguration", {}).get("scanOnPush")),
        policy=policy,
        lifecycle=lifecycle,
    )


def _create(ecr: ECRClient, names: Names) -> Repository:
    try:
        ecr.create_repository(
            repositoryName=names.image,
            tags=[{"Key": key, "Value": value} for key, value in names.tags.items()],
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
        )
    except ClientError as error:  # created by another run at the same time, or by a request whose response was lost
        if error_code(error) != "RepositoryAlreadyExistsException" or read_repository(ecr, names) is None:
            raise
    return _read(ecr, ecr.describe_repositories(repositoryNames=[names.image])["repositories"][0])


def _write_settings(ecr: ECRClient, names: Names, there: Repository) -> None:
    """Give the repository the settings of a new one."""
    if not there.immutable:
        ecr.put_image_tag_mutability(repositoryName=names.image, imageTagMutability="IMMUTABLE")
    if not there.scans:
        ecr.put_image_scanning_configuration(
            repositoryName=names.image, imageScanningConfiguration={"scanOnPush": True}
        )


def _statements(there: Repository) -> list[Document]:
    statements = there.policy["Statement"]
    return statements if isinstance(statements, list) else [statements]


def _ours(there: Repository) -> list[Document]:
    return [statement for statement in _statements(there) if statement.get("Sid") == _SID]


def _is_kept(there: Repository) -> bool:
    """Return whether the lifecycle policy was not written by mlinfer, so that it is kept."""
    rules = there.lifecycle["rules"] if there.lifecycle else []
    return not all(rule.get("description", "").startswith(_OURS) for rule in rules)


def _in_order(statement: Any) -> Any:
    """Return a part of a policy in a form that does not depend on how AWS writes lists."""
    if isinstance(statement, Mapping):
        return {name: _in_order(value) for name, value in statement.items()}
    return sorted(statement) if isinstance(statement, list) else [statement]


@contextmanager
def _unless(answer: str) -> Iterator[None]:
    """Ignore the given AWS error code, which means that something does not exist."""
    try:
        yield
    except ClientError as error:
        if error_code(error) != answer:
            raise
