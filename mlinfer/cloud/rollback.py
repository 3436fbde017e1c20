"""Move traffic back to an older version after verifying it against its own model file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from lambda_src.inference.download import sha256_of
from lambda_src.s3.objects import split_uri

from ..clients.aws_errors import error_code, explained
from ..clients.waiter import Waiter
from ..errors import RemoteError, UsageError, VerificationError
from ..model.modelfile import ModelFile, has_old_schema
from ..model.samples import draw
from ..model.upgrade import write_upgraded
from ..names import Account, Names
from ..targets import Target
from .deploy import DeploymentClients
from .plan import Change, Plan, Step, StepResult, apply
from .resources.alias import apply_alias, plan_alias, read_alias
from .resources.function import Function, read_function, wait_until_ready
from .resources.role import apply_readable, plan_readable, read_role
from .resources.version import versions
from .verify import NETWORK_S, PICTURES, verify_alone, verify_answers, version_asker

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class RollbackSpec:
    """What to roll back. version: "" for the newest before the deployed one. here: the configured model file."""

    account: Account
    names: Names
    version: str
    here: ModelFile | None


@dataclass(frozen=True)
class RollbackPlan:
    """The steps from one version to another. done_before: an earlier command already did this."""

    function: str
    version: str
    before: str
    plan: Plan
    done_before: bool = False


@dataclass(frozen=True)
class Rollback:
    """The version deployed now, and the one before."""

    function: str
    version: str
    before: str
    steps: tuple[StepResult, ...]
    done_before: bool = False


Embedded = Callable[[Path], Target]  # returns the target that predicts with a model file in this process


def rollback(planned: RollbackPlan, report: Callable[[StepResult], None]) -> Rollback:
    """Verify the version and move traffic to it. Raises MlinferError."""
    steps = apply(planned.plan, report)
    return Rollback(planned.function, planned.version, planned.before, steps, planned.done_before)


def plan_rollback(
    spec: RollbackSpec, clients: DeploymentClients, *, embedded: Embedded, waiter: Waiter
) -> RollbackPlan:
    """Return the version to deploy and the steps, without changing anything. Raises MlinferError.

    A repeated rollback without a version does nothing, because the first may have been killed before it reported success.
    """
    names, functions = spec.names, clients.functions
    with explained(f"function {names.function}"):
        read_function(functions, names)  # refuses one that is not ours
        live = read_alias(functions, names)
        if live is None:
            raise RemoteError(
                "not_deployed", f"no version of function {names.function} is deployed", "Run `mlinfer deploy`."
            )
        if not spec.version and live.rolled_back_from:
            done = plan_alias(live, live.version)
            plan = Plan((Step("alias", done, lambda: done),))
            return RollbackPlan(names.function, live.version, live.rolled_back_from, plan, done_before=True)
        number = _choose([v["Version"] for v in versions(functions, names)], live.version, spec.version)
        chosen = wait_until_ready(functions, names, waiter, version=number)
    before = "" if spec.version else live.version
    move = Step(
        "alias",
        plan_alias(live, number),
        lambda: apply_alias(functions, names, there=live, version=number, rolled_back_from=before),
    )
    if number == live.version:
        return RollbackPlan(names.function, number, live.version, Plan((move,)))
    asked = Change("created", f"version {number} with {PICTURES} images")
    verification = Step("proof", asked, lambda: _verify(spec, clients, chosen, embedded=embedded, waiter=waiter))
    return RollbackPlan(
        names.function, number, live.version, Plan((_role(spec, clients.iam, chosen), verification, move))
    )


def _choose(published: Sequence[str], live: str, wanted: str) -> str:
    """Return the version to roll back to. Raises UsageError."""
    hint = f"Published versions: {', '.join(published)}. Version {live} is deployed."
    if wanted:
        if wanted not in published:
            raise UsageError("no_such_version", f"version {wanted} does not exist", hint)
        return wanted
    older = [number for number in published if live == "$LATEST" or int(number) < int(live)]
    if not older:
        raise UsageError(
            "no_such_version", f"no published version is older than version {live}, which is deployed", hint
        )
    return older[-1]


def _role(spec: RollbackSpec, iam: IAMClient, chosen: Function) -> Step:
    """Return the step that lets the function read the version's model."""
    uri, names = chosen.settings.environment.get("MLINFER_MODEL_URI", ""), spec.names
    if not uri.startswith("s3://"):
        in_image = Change("skipped", "the model is in the container image")
        return Step("role", in_image, lambda: in_image)
    model = spec.account.s3(uri)
    with explained(f"role {names.function}"):
        change = plan_readable(read_role(iam, names), names, model)
    return Step("role", change, lambda: apply_readable(iam, names, model))


def _verify(
    spec: RollbackSpec, clients: DeploymentClients, chosen: Function, *, embedded: Embedded, waiter: Waiter
) -> Change:
    settings, pictures = chosen.settings, draw(PICTURES)
    uri = settings.environment.get("MLINFER_MODEL_URI", "")
    sha256 = settings.environment.get("MLINFER_MODEL_SHA256", "")
    ask = version_asker(
        clients.invoker(settings.timeout + NETWORK_S), spec.names, version=chosen.version, waiter=waiter
    )
    if spec.here and spec.here.sha256 == sha256:
        return Change("created", verify_answers(ask, embedded(spec.here.path), sha256=sha256, pictures=pictures))
    if not uri.startswith("s3://"):
        return Change("created", verify_alone(ask, sha256, pictures))
    with _downloaded(clients.s3, uri, sha256) as path:
        if has_old_schema(path):  # the version's own handler reads it, but the one here does not
            write_upgraded(path, path := path.with_name("upgraded.onnx"))
        return Change("created", verify_answers(ask, embedded(path), sha256=sha256, pictures=pictures))


@contextmanager
def _downloaded(s3: S3Client, uri: str, sha256: str) -> Iterator[Path]:
    """Download the model file of an older version to a temporary path. Raises RemoteError, VerificationError."""
    bucket, key = split_uri(uri)
    with tempfile.TemporaryDirectory(prefix="mlinfer-") as folder:
        path = Path(folder) / "model.onnx"
        with explained(uri, "s3:GetObject"):
            try:
                s3.download_file(bucket, key, str(path))
            except ClientError as error:
                if error_code(error) != "404":
                    raise
                message = f"the version cannot start because its model {uri} was deleted"
                raise VerificationError(
                    "model_gone", message, "Choose another version, or run `mlinfer deploy`."
                ) from error
        if sha256_of(path) != sha256:
            raise VerificationError("model_changed", f"model {uri} was changed after the version was deployed")
        yield path
