"""Push the container image to ECR and check that Lambda accepts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import RemoteError, UsageError, VerificationError
from .builder import Builder, BuiltImage, Show
from .manifest import MAX_IMAGE_BYTES, RemoteImage
from .registry import EcrRepository, Registry

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


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


def plan_push(builder: Builder, ecr: ECRClient, *, repository: str, tag: str, arch: str) -> PlannedPush:
    """Return what `push_image` would do for a local tag, which may not be built yet. This changes nothing.

    repository: its URI, "" if it does not exist yet. Raises RemoteError, MissingError, UsageError, VerificationError.
    """
    here = builder.find_id(tag)
    if not repository or here is None:
        name = tag.rpartition(":")[2]
        return PlannedPush(f"{repository}:{name}" if repository else tag, "created")
    held, image = _find_pushed(EcrRepository(ecr, repository).open(), image_id=here, local=tag, arch=arch)
    if image:
        return PlannedPush(f"{repository}@{image.digest}", "unchanged")
    return PlannedPush(f"{repository}:{held}", "created")


def push_image(
    builder: Builder, ecr: ECRClient, *, repository: str, built: BuiltImage, arch: str, show: Show
) -> PushedImage:
    """Push the container image unless the repository has it, and check that Lambda accepts it.

    Call `check_image` first. The image keeps its local tag. If another build of the same files already has that tag, the image's id is appended.
    repository: its URI. show: takes a layer's id, the bytes sent and the total. Raises MissingError, RemoteError,
    UsageError, VerificationError.
    """
    there = EcrRepository(ecr, repository)
    tag, image = _find_pushed(there.open(), image_id=built.id, local=built.tag, arch=arch)
    outcome: Literal["pushed", "unchanged"] = "unchanged"
    if image is None:
        digest = builder.send(built, there, tag, show)
        image, outcome = there.open().find_image(digest or tag, arch), "pushed"
    if image is None:
        message = f"{repository}:{tag} was pushed, but the registry does not return it"
        raise RemoteError("not_confirmed", message, "Push again.")
    if outcome == "pushed" and built.id not in image.ids:
        message = f"{repository}:{tag} is not the container image that was built"
        raise VerificationError("not_confirmed", message, "Push again.")
    return PushedImage(f"{repository}@{image.digest}", image.digest, tag, image.arch, outcome, image.bytes)


def check_image(builder: Builder, built: BuiltImage, arch: str) -> None:
    """Check before the push what Lambda would reject after it. Raises UsageError, VerificationError."""
    if built.arch != arch:
        message = f"container image {built.tag} is for {built.arch}, but the function uses {arch}"
        raise VerificationError("wrong_architecture", message, f"Build it with `mlinfer build --arch {arch}`.")
    if (size := builder.size(built)) > MAX_IMAGE_BYTES:
        limit = f"Lambda's limit is {MAX_IMAGE_BYTES // 2**30} GB"
        message = f"container image {built.tag} is {size / 2**30:.1f} GB uncompressed, but {limit}"
        raise UsageError("image_too_large", message, 'Set model_source = "s3" in mlinfer.toml to keep the model in S3.')


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
