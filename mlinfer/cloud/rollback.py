"""Send the traffic back to an older version, after a proof that it answers as its own model file does here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from lambda_src.inference.download import sha256_of
from lambda_src.inference.s3 import split_uri

from ..clients.aws import Client
from ..clients.aws_errors import error_code, explained
from ..clients.waiter import Waiter
from ..errors import RemoteError, UsageError, VerificationError
from ..model.modelfile import ModelFile
from ..model.samples import draw
from ..names import Account, Names
from ..targets import Target
from .deploy import Clients
from .plan import Change, Step, Steps
from .resources.alias import move_alias, plan_alias, read_alias
from .resources.function import Function, read_function, versions, wait_until_ready
from .resources.role import ensure_readable
from .verify import NETWORK_S, PICTURES, prove, prove_alone, version_asker


@dataclass(frozen=True)
class Rollback:
    """What is live now, and what was before. done_before: an earlier command has done it."""

    function: str
    version: str
    before: str
    steps: tuple[Step, ...]
    done_before: bool = False


def rollback(
    clients: Clients,
    account: Account,
    names: Names,
    version: str,
    here: ModelFile | None,
    embedded: Callable[[Path], Target],
    waiter: Waiter,
    report: Callable[[Step], None],
) -> Rollback:
    """Prove a version and make it live. here: the configured model file.

    version "" = the newest before the live one; where such a rollback is done already, it is not done again: it may have
    been killed before it could say so. embedded: returns the target that answers with a model file in this process. Raises MlinferError.
    """
    steps = Steps(report)
    with explained(f"the function {names.function}"):
        read_function(clients.functions, names)  # refuses one that is not ours
        live = read_alias(clients.functions, names)
        if live is None:
            raise RemoteError("not_deployed", f"no version of {names.function} is live", "Begin with: mlinfer deploy")
        if not version and live.rolled_back_from:
            steps.ended("alias", plan_alias(live, live.version))
            return Rollback(names.function, live.version, live.rolled_back_from, tuple(steps.done), done_before=True)
        number = _choose([v["Version"] for v in versions(clients.functions, names)], live.version, version)
        chosen = wait_until_ready(clients.functions, names, waiter, number)
    if number != live.version:
        steps.ended("role", _readable(clients.iam, account, names, chosen))
        steps.ended("proof", _proof(clients, names, chosen, here, embedded, waiter))
    before = "" if version else live.version
    steps.ended("alias", move_alias(clients.functions, names, live, number, rolled_back_from=before))
    return Rollback(names.function, number, live.version, tuple(steps.done))


def _choose(published: Sequence[str], live: str, wanted: str) -> str:
    """Return the version to go back to. Raises UsageError."""
    there = f"There are: {', '.join(published)}; live is {live}."
    if wanted:
        if wanted not in published:
            raise UsageError("no_such_version", f"there is no version {wanted}", there)
        return wanted
    older = [number for number in published if live == "$LATEST" or int(number) < int(live)]
    if not older:
        raise UsageError("no_such_version", f"there is no version before {live}, which is live", there)
    return older[-1]


def _readable(iam: Client, account: Account, names: Names, chosen: Function) -> Change:
    uri = chosen.settings.environment.get("MLINFER_MODEL_URI", "")
    if not uri.startswith("s3://"):
        return Change("skipped", "its model is in the image")
    with explained(f"the role {names.function}"):
        return ensure_readable(iam, account, names, uri)


def _proof(
    clients: Clients,
    names: Names,
    chosen: Function,
    here: ModelFile | None,
    embedded: Callable[[Path], Target],
    waiter: Waiter,
) -> Change:
    settings, pictures = chosen.settings, draw(PICTURES)
    uri = settings.environment.get("MLINFER_MODEL_URI", "")
    sha256 = settings.environment.get("MLINFER_MODEL_SHA256", "")
    ask = version_asker(clients.invoker(settings.timeout + NETWORK_S), names, chosen.version, waiter)
    if here and here.sha256 == sha256:
        return Change("made", prove(ask, embedded(here.path), sha256, pictures))
    if not uri.startswith("s3://"):
        return Change("made", prove_alone(ask, sha256, pictures))
    with _downloaded(clients.s3, uri, sha256) as path:
        return Change("made", prove(ask, embedded(path), sha256, pictures))


@contextmanager
def _downloaded(s3: Client, uri: str, sha256: str) -> Iterator[Path]:
    """Give the model file of an older version for a while. Raises RemoteError, VerificationError."""
    bucket, key = split_uri(uri)
    with tempfile.TemporaryDirectory(prefix="mlinfer-") as folder:
        path = Path(folder) / "model.onnx"
        with explained(uri, "s3:GetObject"):
            try:
                s3.download_file(bucket, key, str(path))
            except ClientError as error:
                if error_code(error) != "404":
                    raise
                message = f"the version's model {uri} is gone, so that it could not start"
                raise VerificationError("model_gone", message, "Choose another version, or deploy.") from error
        if sha256_of(path) != sha256:
            raise VerificationError("model_changed", f"{uri} is not the model that the version was deployed with")
        yield path
