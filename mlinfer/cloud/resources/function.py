"""The Lambda function: created or updated one change at a time, and only where it differs.

Lambda applies changes asynchronously, so each change waits until the previous one has taken effect.
https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, none_if_absent
from ...clients.ownership import Owner, owner_of
from ...clients.waiter import Waiter
from ...errors import RemoteError
from ...names import Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


_BENCH = "MLINFER_BENCH"  # set on $LATEST during a measurement; the handler ignores it
ROLE_LIMIT_S = 60  # a new role takes about 10 s to become active everywhere


@dataclass(frozen=True)
class FunctionConfig:
    """The settings of a function. image: repository@digest. memory, tmp: MB. timeout: s.

    concurrency: None if not reserved; with 0 Lambda rejects every call. image_config (overrides of ENTRYPOINT, CMD and
    WORKDIR) and logging (differences from Lambda's default) are never wanted and are reset.
    """

    image: str
    arch: str
    role: str
    memory: int
    timeout: int
    tmp: int
    environment: Mapping[str, str]
    concurrency: int | None = None
    image_config: Mapping[str, Any] = field(default_factory=dict)
    logging: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> Document:
        """Return the settings that are compared with AWS."""
        configuration = {"role": self.role, "memory": self.memory, "timeout": self.timeout, "tmp": self.tmp}
        configuration |= {"environment": dict(self.environment)}
        strange = {"image_config": dict(self.image_config), "logging": dict(self.logging)}
        configuration |= {name: value for name, value in strange.items() if value}
        return {"image": self.image, "arch": self.arch, **configuration, "concurrency": self.concurrency}


@dataclass(frozen=True)
class Function:
    """The function as last changed ($LATEST), or one of its versions."""

    version: str
    settings: FunctionConfig
    revision: str
    state: str
    reason: str
    updating: str
    update_reason: str
    updated: str


def read_function(client: LambdaClient, names: Names, version: str = "") -> Function | None:
    """Return the function or the given version, None if it does not exist. Raises RemoteError, ClientError."""
    which = {"Qualifier": version} if version else {}
    found = none_if_absent(lambda: client.get_function(FunctionName=names.function, **which))
    if found is None:
        return None
    if not version:
        owner_of_function(client, names, found).require_ours()
    told, code = found["Configuration"], found.get("Code", {})
    if told.get("PackageType", "Zip") != "Image":
        message = f"function {names.function} uses a ZIP file, and Lambda cannot change that to a container image"
        raise RemoteError(
            "wrong_package_type", message, "Delete the function, or set another project name in mlinfer.toml."
        )
    settings = FunctionConfig(
        image=code.get("ResolvedImageUri") or code.get("ImageUri", ""),
        arch=told.get("Architectures", ["x86_64"])[0],
        role=told["Role"],
        memory=told["MemorySize"],
        timeout=told["Timeout"],
        tmp=told.get("EphemeralStorage", {}).get("Size", 512),
        environment=told.get("Environment", {}).get("Variables", {}),
        concurrency=found.get("Concurrency", {}).get("ReservedConcurrentExecutions"),
        image_config=_image_config(told),
        logging=_logging(told, names),
    )
    return Function(
        told["Version"],
        settings,
        told.get("RevisionId", ""),
        told.get("State", "Active"),
        told.get("StateReason", ""),
        told.get("LastUpdateStatus", "Successful"),
        told.get("LastUpdateStatusReason", ""),
        told.get("LastModified", ""),
    )


def _image_config(told: Mapping[str, Any]) -> dict[str, Any]:
    overrides = told.get("ImageConfigResponse", {}).get("ImageConfig", {})
    return {name: value for name, value in overrides.items() if value}


def _logging(told: Mapping[str, Any], names: Names) -> dict[str, Any]:
    default = _default_logging(names)
    held = default | told.get("LoggingConfig", {})
    return held if held != default else {}


def _default_logging(names: Names) -> dict[str, Any]:
    return {"LogFormat": "Text", "LogGroup": names.log_group}


def owner_of_function(client: LambdaClient, names: Names, found: Mapping[str, Any]) -> Owner:
    """Return who manages the function. found: the GetFunction response, which has tags only with lambda:ListTags.

    Raises ClientError.
    """

    def tags() -> Mapping[str, str] | None:
        if "Tags" in found or "TagsError" in found:
            return found.get("Tags")
        listed: Mapping[str, str] = client.list_tags(Resource=found["Configuration"]["FunctionArn"]).get("Tags", {})
        return listed

    return owner_of("function", names.function, names, permission="lambda:ListTags", read_tags=tags)


def is_older(function: Function, created: datetime) -> bool:
    """Return whether the function was last changed before `created`; False if that time is unknown."""
    try:
        changed = datetime.strptime(function.updated[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return created.replace(microsecond=0) > changed  # Lambda and IAM tell these times in seconds


def plan_function(
    there: Function | None, wanted: FunctionConfig, *, names: Names, role_created: datetime | None = None
) -> Change:
    """Return the change from the existing to the wanted function.

    role_created: a role that was recreated after the function's last change is attached again, see `apply_function`.
    """
    change = compare("function", there.settings.document() if there else None, wanted.document(), detail=names.function)
    if there is None or change.outcome != "unchanged":
        return change
    if there.updating == "Failed":
        return Change("changed", f"{names.function} (the last update failed: {there.update_reason})")
    if _is_renewed(there, role_created):
        return Change("changed", f"{names.function} (its role was recreated)")
    return change


def apply_function(
    client: LambdaClient, names: Names, wanted: FunctionConfig, *, waiter: Waiter, role_created: datetime | None = None
) -> Change:
    """Create the function, or update its code, configuration and concurrency, in this order. Raises RemoteError.

    role_created: a role that was recreated after the function's last change is attached again. Lambda then creates a new
    grant for the environment's key, because the old role's grant is not valid for the new role of the same name.
    """
    with explained(f"function {names.function}"):
        there = read_function(client, names)
        if there:
            there = wait_until_ready(client, names, waiter, first=there)
        change = plan_function(there, wanted, names=names, role_created=role_created)
        if there and _is_renewed(there, role_created):
            _change(
                client, names, operation="update_function_configuration", values={"Role": wanted.role}, waiter=waiter
            )
        if change.outcome != "unchanged":
            there = there or _create(client, names, wanted, waiter=waiter)
            _update(client, names, there=there, wanted=wanted, waiter=waiter)
    return change


def try_image(client: LambdaClient, names: Names, wanted: FunctionConfig) -> None:
    """Let Lambda check the container image without changing anything. Raises RemoteError.

    Does nothing if the function or the pushed image does not exist.
    """
    with explained(f"function {names.function}"):
        there = read_function(client, names)
        if there and "@" in wanted.image and there.settings.image != wanted.image:
            client.update_function_code(
                FunctionName=names.function, ImageUri=wanted.image, Architectures=_architectures(wanted), DryRun=True
            )


def _is_renewed(there: Function, role_created: datetime | None) -> bool:
    return role_created is not None and is_older(there, role_created)


def snapshot(settings: FunctionConfig) -> Document:
    """Return the settings stored in a version: all except the reserved concurrency."""
    return {name: value for name, value in settings.document().items() if name != "concurrency"}


def during_bench(before: FunctionConfig, memory: int, mark: str) -> FunctionConfig:
    """Return the settings that cause a cold start with this memory (MB), and that `before_bench` can undo.

    mark: must differ each time, because Lambda starts a new instance only if the configuration changes.
    """
    environment = {**before.environment, _BENCH: f"{before.memory}MB-{mark}"}
    return replace(before, memory=memory, environment=environment)


def before_bench(there: FunctionConfig) -> FunctionConfig:
    """Return the settings without the temporary changes of `bench` and `tune`."""
    memory, unit, _ = there.environment.get(_BENCH, "").partition("MB-")
    environment = {name: value for name, value in there.environment.items() if name != _BENCH}
    return replace(there, environment=environment, memory=int(memory) if unit and memory.isdigit() else there.memory)


def wait_until_ready(
    client: LambdaClient, names: Names, waiter: Waiter, *, version: str = "", first: Function | None = None
) -> Function:
    """Wait until the function or version is ready, and return it. first: a fresh state, if known. Raises RemoteError.

    A function that failed to start is an error. One whose last update failed still runs, and is returned.
    """
    function = first or _existing(client, names, version)
    pauses: Iterator[bool] | None = None
    while function.state == "Pending" or function.updating == "InProgress":
        pauses = pauses or waiter.pauses(_busy(names, function))
        if not next(pauses, False):
            message = f"{_busy(names, function)} and did not become ready in time"
            raise RemoteError("not_ready", message, "Run the command again to continue.")
        function = _existing(client, names, version)
    if function.state == "Failed":
        message, hint = (
            f"function {names.function} failed",
            "Run `mlinfer destroy --keep-model`, then `mlinfer deploy`.",
        )
        raise RemoteError("function_failed", message, hint, reason=function.reason)
    return function


def reason_to_wait(error: ClientError) -> str:
    """Return why the request can succeed later, "" if waiting does not help."""
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    if code == "ResourceConflictException" and ("in progress" in message or "state: Pending" in message):
        return "the function is still being updated"
    new_role = "cannot be assumed by Lambda" in message or "KMS key is invalid for CreateGrant" in message
    return "the new role is not active everywhere yet" if code == "InvalidParameterValueException" and new_role else ""


def _existing(client: LambdaClient, names: Names, version: str) -> Function:
    function = read_function(client, names, version)
    if function is None:
        what = f"version {version} of function {names.function}" if version else f"function {names.function}"
        raise RemoteError("not_deployed", f"{what} does not exist", "Create it with `mlinfer deploy`.")
    return function


def _busy(names: Names, function: Function) -> str:
    reason = function.reason if function.state == "Pending" else function.update_reason
    doing = "is starting" if function.state == "Pending" else "is being updated"
    return f"function {names.function} {doing}{f' ({reason})' if reason else ''}"


def _create(client: LambdaClient, names: Names, wanted: FunctionConfig, *, waiter: Waiter) -> Function:
    try:
        waiter.retry(
            lambda: client.create_function(
                FunctionName=names.function,
                PackageType="Image",
                Code={"ImageUri": wanted.image},
                Architectures=_architectures(wanted),
                Tags=names.tags,
                **_configuration(wanted),
            ),
            reason_to_wait,
            ROLE_LIMIT_S,
        )
    except ClientError as error:  # created by a request whose response was lost
        if error_code(error) != "ResourceConflictException" or read_function(client, names) is None:
            raise
    return wait_until_ready(client, names, waiter)


def _update(client: LambdaClient, names: Names, *, there: Function, wanted: FunctionConfig, waiter: Waiter) -> None:
    """Apply each remaining change, and wait until it has taken effect."""
    is_, to_be = there.settings, wanted
    if (is_.image, is_.arch) != (to_be.image, to_be.arch) or there.updating == "Failed":
        code = {"ImageUri": to_be.image, "Architectures": [to_be.arch]}
        _change(client, names, operation="update_function_code", values=code, waiter=waiter)
    mend: dict[str, Any] = {"ImageConfig": {}} if is_.image_config else {}
    mend |= {"LoggingConfig": _default_logging(names)} if is_.logging else {}
    if mend or _configuration(is_) != _configuration(to_be):
        _change(
            client, names, operation="update_function_configuration", values=_configuration(to_be) | mend, waiter=waiter
        )
    if is_.concurrency == to_be.concurrency:
        return
    if to_be.concurrency is None:
        client.delete_function_concurrency(FunctionName=names.function)
    else:
        client.put_function_concurrency(FunctionName=names.function, ReservedConcurrentExecutions=to_be.concurrency)


def _change(client: LambdaClient, names: Names, *, operation: str, values: dict[str, Any], waiter: Waiter) -> None:
    waiter.retry(
        lambda: getattr(client, operation)(FunctionName=names.function, **values), reason_to_wait, ROLE_LIMIT_S
    )
    function = wait_until_ready(client, names, waiter)
    if function.updating == "Failed":
        raise RemoteError(
            "update_failed",
            f"Lambda could not update function {names.function}",
            "Fix the cause and run the command again. Published versions are not affected.",
            reason=function.update_reason,
        )


def _architectures(wanted: FunctionConfig) -> list[Any]:
    return [wanted.arch]


def _configuration(wanted: FunctionConfig) -> dict[str, Any]:
    return {
        "Role": wanted.role,
        "MemorySize": wanted.memory,
        "Timeout": wanted.timeout,
        "EphemeralStorage": {"Size": wanted.tmp},
        "Environment": {"Variables": dict(wanted.environment)},
    }
