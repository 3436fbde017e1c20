"""Let the Docker Engine push a container image, and explain its reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..clients.docker import Engine
from ..errors import MissingError, MlinferError, RemoteError
from .archive import read_saved_image
from .builder import BuiltImage, Show
from .registry import EcrRepository, Login
from .structure import check_structure


def send(engine: Engine, built: BuiltImage, repository: EcrRepository, tag: str, show: Show) -> str:
    """Check the content of an image, push it, and return the digest that the Engine reports.

    Raises MissingError, RemoteError, VerificationError.
    """
    with engine.save(built.tag) as archive:
        saved = read_saved_image(archive)
    check_structure(saved.config, saved.layers, own=len(built.layers), arch=built.arch)
    name = f"{repository.uri}:{tag}"
    try:
        return _send(engine, built, name, login=repository.login, show=show)
    except _ExpiredError:
        repository.renew_login()
        return _send(engine, built, name, login=repository.login, show=show)


def _send(engine: Engine, built: BuiltImage, name: str, *, login: Login, show: Show) -> str:
    """Push under a temporary local name and return the digest that the Engine reports."""
    uri, _, tag = name.rpartition(":")
    engine.tag(built.tag, uri, tag)
    try:
        return _follow(engine.push(uri, tag, username=login.username, password=login.password), name, show)
    finally:
        engine.remove_image(name)


def _follow(reports: Iterable[Mapping[str, Any]], subject: str, show: Show) -> str:
    """Show the progress of each layer and return the digest.

    docker-py raises nothing when a push fails; one of the reports is the error.
    """
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


# Parts of the Engine's message in lower case, error code, reason, hint. The first match counts.
_REFUSALS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("token has expired",),
        "expired_token",
        "the registry token has expired, even after a new one was requested",
        "Check the clock of this machine.",
    ),
    (
        ("cannot be overwritten", "tag is immutable"),
        "tag_taken",
        "another push used the tag in the meantime",
        "Push again.",
    ),
    (
        ("no basic auth credentials", "unauthorized", "authentication required", "incorrect username or password"),
        "registry_login",
        "the registry rejected the token",
        "Check --region and AWS_ENDPOINT_URL.",
    ),
    (
        ("name unknown", "repository does not exist"),
        "no_repository",
        "the repository was deleted",
        "Push again to create it.",
    ),
    (
        ("denied", "forbidden"),
        "access_denied",
        "access denied",
        "Ask your AWS administrator for ecr:BatchCheckLayerAvailability, ecr:InitiateLayerUpload, ecr:UploadLayerPart, "
        "ecr:CompleteLayerUpload, ecr:PutImage, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository.",
    ),
    (("toomanyrequests", "rate exceeded"), "throttled", "ECR throttled the requests", "Try again in a minute."),
    (
        ("x509", "certificate", "http response to https"),
        "connection_failed",
        "the Docker Engine does not trust the registry's certificate",
        "Add your proxy's certificate to the trust store of the Docker Engine's machine.",
    ),
    (
        ("dial tcp", "no such host", "lookup ", "timeout", "eof", "connection re", "broken pipe", "proxyconnect"),
        "connection_failed",
        "the Docker Engine cannot connect to the registry",
        "Check the network and proxy of the Docker Engine, then push again (finished layers are not sent again).",
    ),
    (
        ("unexpected http status: 5", "500 internal", "503 service"),
        "service_failed",
        "the registry returned an internal error",
        "Try again in a minute.",
    ),
)  # fmt: skip


def _refused(subject: str, said: str) -> MlinferError:
    """Return the error for a failed push. said: the Engine's message."""
    lower = said.lower()
    if "no space left" in lower:
        hint = "Free some disk space, for example with `docker system prune`."
        return MissingError("disk_full", f"{subject}: the push failed", hint, reason=said)
    for words, code, reason, hint in _REFUSALS:
        if any(word in lower for word in words):
            kind = _ExpiredError if code == "expired_token" else RemoteError
            return kind(code, f"{subject}: {reason}", hint, reason=said)
    return RemoteError("push_failed", f"{subject}: the push failed", reason=said)
