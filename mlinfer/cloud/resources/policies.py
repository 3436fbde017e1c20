"""The IAM policies of the function's role and of the deployer.

Each grants only the actions that our code calls, on resources with the project's names.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...names import Account, Names
from ..plan import Document

LAMBDA = "lambda.amazonaws.com"
READ_MODELS = "ReadModels"  # the statement of the role's policy
DOCTOR = "Doctor"  # begins the statements of the deployer's policy that only `mlinfer doctor` needs

_VERSION = "2012-10-17"  # of the policy language


def trust_policy() -> Document:
    """Return the trust policy, which lets Lambda assume the role."""
    return _policy([_statement("LambdaRunsTheFunction", ["sts:AssumeRole"], principal=LAMBDA)])


def role_policy(
    account: Account, names: Names, *, models: Collection[str], prefixes: Collection[str], kms_key: str = ""
) -> Document:
    """Return the policy to write the function's log and read these models and objects under these prefixes.

    models: s3:// URIs. prefixes: as in MLINFER_INPUT_PREFIXES. kms_key: ARN of the key that encrypts them, "" = none.
    """
    log = f"{account.log_group(names)}:*"
    statements = [_statement("WriteItsLog", ["logs:CreateLogStream", "logs:PutLogEvents"], [log])]
    if pictures := sorted({_below(account, prefix) for prefix in prefixes}):
        statements.append(_statement("ReadPictures", ["s3:GetObject"], pictures))
    if kms_key and (models or prefixes):
        statements.append(_statement("Decrypt", ["kms:Decrypt"], [kms_key]))
    return with_models(statements, {account.s3(uri) for uri in models})


def with_models(statements: list[Document], keys: set[str]) -> Document:
    """Return the policy of these statements, plus one to read the models with these ARNs, if any."""
    models = [_statement(READ_MODELS, ["s3:GetObject"], sorted(keys))] if keys else []
    return _policy(statements + models)


def deployer_policy(account: Account, names: Names, *, bucket: str, prefix: str, kms_key: str = "") -> Document:
    """Return the policy that a user of `mlinfer` needs for this project.

    bucket, kms_key: "" if not configured. Actions without resource-level permissions have their own statements with *.
    """
    function, role, repository = account.function(names), account.role(names), account.repository(names)
    pass_role = _statement("GiveTheRoleToLambda", ["iam:PassRole"], [role])
    pass_role["Condition"] = {"StringEquals": {"iam:PassedToService": LAMBDA}}
    statements = [
        _statement("Function", _named("lambda", _FUNCTION), [function, f"{function}:*"]),
        _statement("Role", _named("iam", _ROLE), [role]),
        pass_role,
        _statement("Log", _named("logs", _LOG), [account.log_group(names), f"{account.log_group(names)}:*"]),
        _statement("FindLogs", ["logs:DescribeLogGroups"]),
        _statement("Repository", _named("ecr", _REPOSITORY), [repository]),
        _statement("LogInToRepositories", ["ecr:GetAuthorizationToken"]),
        _statement(DOCTOR, ["lambda:GetAccountSettings"]),
        _statement(f"{DOCTOR}Simulates", _named("iam", "GetRole SimulatePrincipalPolicy"), account.principals()),
    ]
    if bucket:
        statements.append(_statement("Bucket", _named("s3", _BUCKET), [account.s3(f"s3://{bucket}")]))
        objects = [_below(account, f"s3://{bucket}/{names.staging_prefix}")]
        objects.append(_below(account, "/".join([f"s3://{bucket}", *filter(None, prefix.split("/")), ""])))
        statements.append(_statement("Objects", _named("s3", _OBJECTS), sorted(objects)))
    if bucket and kms_key:  # Decrypt: for a file in parts, and for the checksum of an object
        statements.append(_statement("Key", ["kms:Decrypt", "kms:GenerateDataKey"], [kms_key]))
    return _policy(statements)


_FUNCTION = (
    "AddPermission CreateAlias CreateFunction CreateFunctionUrlConfig DeleteFunction DeleteFunctionConcurrency "
    "DeleteFunctionUrlConfig GetAlias GetFunction GetFunctionConfiguration GetFunctionUrlConfig GetPolicy "
    "InvokeFunction InvokeFunctionUrl ListTags ListVersionsByFunction PublishVersion PutFunctionConcurrency RemovePermission TagResource UpdateAlias "
    "UpdateFunctionCode UpdateFunctionConfiguration UpdateFunctionUrlConfig"
)
_ROLE = (
    "CreateRole DeleteRole DeleteRolePolicy DetachRolePolicy GetRole GetRolePolicy ListAttachedRolePolicies "
    "ListInstanceProfilesForRole ListRolePolicies PutRolePolicy TagRole UpdateAssumeRolePolicy"
)
_LOG = "CreateLogGroup DeleteLogGroup FilterLogEvents ListTagsForResource PutRetentionPolicy TagResource"
_REPOSITORY = (  # Docker calls the actions of layers and manifests
    "BatchCheckLayerAvailability BatchGetImage CompleteLayerUpload CreateRepository DeleteRepository "
    "DescribeImages DescribeRepositories GetDownloadUrlForLayer GetLifecyclePolicy GetRepositoryPolicy "
    "InitiateLayerUpload ListTagsForResource PutImage PutImageScanningConfiguration PutImageTagMutability "
    "PutLifecyclePolicy SetRepositoryPolicy TagResource UploadLayerPart"
)
_BUCKET = (
    "CreateBucket DeleteBucket GetBucketPublicAccessBlock GetBucketTagging GetBucketVersioning GetLifecycleConfiguration ListBucket "
    "ListBucketMultipartUploads ListBucketVersions PutBucketPublicAccessBlock PutBucketTagging "
    "PutBucketVersioning PutEncryptionConfiguration PutLifecycleConfiguration TagResource"
)
_OBJECTS = "AbortMultipartUpload DeleteObject DeleteObjectVersion GetObject PutObject"


def _policy(statements: list[Document]) -> Document:
    return {"Version": _VERSION, "Statement": statements}


def _statement(sid: str, actions: Sequence[str], resources: Sequence[str] = ("*",), *, principal: str = "") -> Document:
    """Return an Allow statement. One with a principal is for a resource-based policy."""
    subject = {"Principal": {"Service": principal}} if principal else {"Resource": list(resources)}
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), **subject}


def _named(service: str, operations: str) -> list[str]:
    return [f"{service}:{operation}" for operation in operations.split()]


def _below(account: Account, prefix: str) -> str:
    """Return the ARN of all keys below a prefix. Like the handler, add a missing / at the end."""
    whole = prefix if prefix.endswith("/") else f"{prefix}/"
    return f"{account.s3(whole)}*"
