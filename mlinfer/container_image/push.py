"""Push the container image to ECR and check that Lambda accepts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..clients.docker import Engine
from ..errors import MissingError, MlinferError, RemoteError, UsageError, VerificationError
from .archive import read_saved_image
from .docker_build import BuiltImage
from .manifest import MAX_IMAGE_BYTES, RemoteImage
from .registry import Login, Registry, log_in, open_registry
from .structure import check_structure

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PushedImage:
    """A container image in ECR. uri: REPOSITORY@digest. bytes: size of its layers, compressed."""

    uri: str
    digest: str
    tag: str
    arch: str
    outcome: Literal["pushed", "unchanged"]
    bytes: int


@dataclass(frozen=True)
class PlannedPush:
    """The result of a push that was not run. uri: REPOSITORY@digest if the image exists there, else REPOSITORY:tag."""

    uri: str
    outcome: Literal["created", "unchanged"]


def plan_push(engine: Engine, ecr: ECRClient, *, repository: str, tag: str, arch: str) -> PlannedPush:
    """Return what `push_image` would do for a local tag, which may not be built yet. This changes nothing.

    repository: its URI, "" if it does not exist yet. Raises RemoteError, MissingError, UsageError, VerificationError.
    """
    here = engine.find_image(tag)
    if not repository or here is None:
        name = tag.rpartition(":")[2]
        return PlannedPush(f"{repository}:{name}" if repository else tag, "created")
    held, image = _find_pushed(open_registry(ecr, repository, log_in(ecr)), image_id=here.id, local=tag, arch=arch)
    if image:
        return PlannedPush(f"{repository}@{image.digest}", "unchanged")
    return PlannedPush(f"{repository}:{held}", "created")


def push_image(
    engine: Engine, ecr: ECRClient, *, repository: str, built: BuiltImage, arch: str, show: Show
) -> PushedImage:
    """Push the container image unless the repository has it, and check that Lambda accepts it.

    It keeps its local tag. If another build of the same files already has that tag, the image's id is appended.
    repository: its URI. show: takes a layer's id, the bytes sent and the total. Raises MissingError, RemoteError,
    UsageError, VerificationError.
    """
    check_image(engine, built, arch)
    login = log_in(ecr)
    tag, image = _find_pushed(open_registry(ecr, repository, login), image_id=built.id, local=built.tag, arch=arch)
    outcome: Literal["pushed", "unchanged"] = "unchanged"
    if image is None:
        _check_content(engine, built, arch)
        try:
            digest = _send(engine, built, f"{repository}:{tag}", login=login, show=show)
        except _ExpiredError:
            login = log_in(ecr)
            digest = _send(engine, built, f"{repository}:{tag}", login=login, show=show)
        image, outcome = open_registry(ecr, repository, login).find_image(digest or tag, arch), "pushed"
    if image is None:
        message = f"{repository}:{tag} was pushed, but the registry does not return it"
        raise RemoteError("not_confirmed", message, "Push again.")
    return PushedImage(f"{repository}@{image.digest}", image.digest, tag, image.arch, outcome, image.bytes)


def check_image(engine: Engine, built: BuiltImage, arch: str) -> None:
    """Check before the push what Lambda would reject after it. Raises UsageError, VerificationError."""
    if built.arch != arch:
        message = f"container image {built.tag} is for {built.arch}, but the function uses {arch}"
        raise VerificationError("wrong_architecture", message, f"Build it with `mlinfer build --arch {arch}`.")
    size = sum(size for _, size in engine.layers(built.tag))
    if size > MAX_IMAGE_BYTES:
        limit = f"Lambda's limit is {MAX_IMAGE_BYTES // 2**30} GB"
        message = f"container image {built.tag} is {size / 2**30:.1f} GB uncompressed, but {limit}"
        raise UsageError("image_too_large", message, 'Set model_source = "s3" in mlinfer.toml to keep the model in S3.')


def _check_content(engine: Engine, built: BuiltImage, arch: str) -> None:
    """Check every layer before it is sent. Raises VerificationError."""
    with engine.save(built.tag) as archive:
        saved = read_saved_image(archive)
    check_structure(saved.config, saved.layers, own=len(built.layers), arch=arch)


def _find_pushed(registry: Registry, *, image_id: str, local: str, arch: str) -> tuple[str, RemoteImage | None]:
    """Return the tag for this container image in the repository, and the image if it exists there."""
    tag = local.rpartition(":")[2]
    try:
        image = registry.find_image(tag, arch)
        if image is None or image_id in image.ids:
            return tag, image
    except VerificationError:
        pass  # the tag belongs to something else, and it is immutable
    tag += f"-{image_id.removeprefix('sha256:')[:12]}"
    return tag, registry.find_image(tag, arch)


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
