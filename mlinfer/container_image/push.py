"""Push the image to ECR, and read back what Lambda will be given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..clients.docker import Engine
from ..errors import MissingError, MlinferError, RemoteError, UsageError, VerificationError
from .docker_build import BuiltImage
from .manifest import MAX_IMAGE_BYTES, RemoteImage
from .registry import Login, Registry, log_in, open_registry

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PushedImage:
    """An image in ECR as Lambda is given it. uri: REPOSITORY@digest. bytes: of its layers, compressed."""

    uri: str
    digest: str
    tag: str
    arch: str
    outcome: Literal["pushed", "unchanged"]
    bytes: int


@dataclass(frozen=True)
class PlannedPush:
    """What a push would give. uri: REPOSITORY@digest if it is there, else REPOSITORY:tag."""

    uri: str
    outcome: Literal["created", "unchanged"]


def plan_push(engine: Engine, ecr: ECRClient, *, repository: str, tag: str, arch: str) -> PlannedPush:
    """Say what `push_image` would find and do for an image of that local tag, which may not be built yet; change nothing.

    repository: its URI, "" where there is none yet. Raises RemoteError, MissingError, UsageError, VerificationError.
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
    """Bring the image into the repository unless it is there, and check what lies there against what Lambda takes.

    Its tag there is the local one; where that names another image (built anew from the same files), the image's id is
    added. repository: its URI. show: takes a layer's name, the bytes sent and those to send. Raises MissingError,
    RemoteError, UsageError, VerificationError.
    """
    check_image(engine, built, arch)
    login = log_in(ecr)
    tag, image = _find_pushed(open_registry(ecr, repository, login), image_id=built.id, local=built.tag, arch=arch)
    outcome: Literal["pushed", "unchanged"] = "unchanged"
    if image is None:
        try:
            digest = _send(engine, built, f"{repository}:{tag}", login=login, show=show)
        except _ExpiredError:
            login = log_in(ecr)
            digest = _send(engine, built, f"{repository}:{tag}", login=login, show=show)
        image, outcome = open_registry(ecr, repository, login).find_image(digest or tag, arch), "pushed"
    if image is None:
        message = f"{repository}:{tag} was pushed, and the registry does not have it"
        raise RemoteError("not_confirmed", message, "Push again.")
    return PushedImage(f"{repository}@{image.digest}", image.digest, tag, image.arch, outcome, image.bytes)


def check_image(engine: Engine, built: BuiltImage, arch: str) -> None:
    """Refuse before anything is sent what Lambda would refuse after. Raises UsageError, VerificationError."""
    if built.arch != arch:
        message = f"the image {built.tag} is for {built.arch}, and the function's architecture is {arch}"
        raise VerificationError("wrong_architecture", message, f"Build for it: mlinfer build --arch {arch}")
    size = sum(size for _, size in engine.layers(built.tag))
    if size > MAX_IMAGE_BYTES:
        message = f"the image has {size / 2**30:.1f} GB unpacked, and Lambda takes {MAX_IMAGE_BYTES // 2**30} at most"
        raise UsageError("image_too_large", message, 'Keep the model in S3: model_source = "s3" in mlinfer.toml.')


def _find_pushed(registry: Registry, *, image_id: str, local: str, arch: str) -> tuple[str, RemoteImage | None]:
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


def _send(engine: Engine, built: BuiltImage, name: str, *, login: Login, show: Show) -> str:
    """Push under a name that the Engine has for as long as that takes, and return the digest that it reports."""
    uri, _, tag = name.rpartition(":")
    engine.tag(built.tag, uri, tag)
    try:
        return _follow(engine.push(uri, tag, username=login.username, password=login.password), name, show)
    finally:
        engine.remove_image(name)


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
