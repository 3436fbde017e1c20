"""Ask the Docker Engine: the one module that imports its SDK.

The Engine is found as the `docker` command finds it: DOCKER_HOST, then the current context.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import docker
from docker.context import ContextAPI
from docker.context.config import get_current_context_name
from docker.credentials.errors import StoreError
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Mount
from requests.exceptions import RequestException

from ..errors import MissingError, RemoteError
from .docker_errors import build_error, engine_refusal, pull_error
from .loopback import is_loopback

# The Engine's words for Lambda's names: https://docs.docker.com/build/building/multi-platform/
PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}

_READ_TIMEOUT_S = 600  # of one answer; a step of a build can be silent for as long as pip works
_NEEDLESS = "`mlinfer predict` and `mlinfer run-local --no-docker` need no Docker."


@dataclass(frozen=True)
class Image:
    """An image of the Engine. arch: in Lambda's words. bytes: of all its layers, unpacked."""

    id: str
    tags: tuple[str, ...]
    arch: str
    bytes: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class EngineMachine:
    """The Engine's machine, which is a virtual one with Docker Desktop. memory: bytes."""

    cores: int
    memory: int


class Engine:
    """What mlinfer asks of the Docker Engine. Every method raises MissingError or RemoteError."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    @property
    def remote(self) -> str:
        """Return the host name of the Engine's machine, "ssh" for one behind SSH, or "" for this machine.

        The Engine of a virtual machine here (Docker Desktop, Colima) answers at a socket and shares files and ports: "".
        """
        url = urlsplit(str(self._client.api.base_url))
        if url.scheme == "http+docker":
            return "ssh" if url.hostname == "ssh" else ""
        return "" if is_loopback(url.hostname or "") else str(url.hostname)

    def version(self) -> dict[str, Any]:
        """Return the Engine's own description of its version."""
        with explained("the Docker Engine"):
            version: dict[str, Any] = self._client.version()
            return version

    def describe(self) -> dict[str, Any]:
        """Return the Engine's own description of its machine, storage and settings."""
        with explained("the Docker Engine"):
            info: dict[str, Any] = self._client.info()
            return info

    def machine(self) -> EngineMachine:
        """Return what the Engine's machine has."""
        info = self.describe()
        return EngineMachine(int(info["NCPU"]), int(info["MemTotal"]))

    def find_image(self, name: str) -> Image | None:
        """Return a local image by its tag or id."""
        with explained(name):
            try:
                found = self._client.images.get(name)
            except ImageNotFound:
                return None
        arch = str(found.attrs["Architecture"])
        return Image(
            found.id, tuple(found.tags), _ARCHITECTURES.get(arch, arch), int(found.attrs["Size"]), dict(found.labels)
        )

    def find_in_registry(self, name: str) -> list[str]:
        """Return the architectures, in Lambda's words, that a public registry has of an image."""
        with explained(name):  # with no login at all: reading the user's could start the helper of a keychain
            try:
                found = self._client.api.inspect_distribution(name, auth_config={})
            except APIError as error:
                raise pull_error(name, str(error.explanation or error)) from error
            names = [str(platform.get("architecture")) for platform in found.get("Platforms") or []]
            return [_ARCHITECTURES.get(arch, arch) for arch in names]

    def layers(self, image: str) -> list[tuple[str, int]]:
        """Return the instruction and the bytes of each layer, the topmost first."""
        with explained(image):
            return [(str(layer["CreatedBy"]), int(layer["Size"])) for layer in self._client.api.history(image)]

    def build(
        self,
        context: IO[bytes],
        *,
        tag: str,
        arch: str,
        args: Mapping[str, str],
        labels: Mapping[str, str],
        pull: bool,
        cache: bool,
    ) -> Iterator[str]:
        """Build the Dockerfile of a tar file and yield the log line by line.

        args: build arguments, of which BASE names the base image. Raises RemoteError with a step's last lines.
        """
        with explained(f"the build of {tag}"):
            with _logins_explained():
                stream = self._client.api.build(
                    fileobj=context,
                    custom_context=True,
                    tag=tag,
                    platform=PLATFORMS[arch],
                    buildargs=dict(args),
                    labels=dict(labels),
                    pull=pull,
                    nocache=not cache,
                    rm=True,
                    forcerm=True,
                    decode=True,
                )
            for item in stream:
                if said := failure_in(item):
                    raise build_error(said, args.get("BASE", ""))
                yield from str(item.get("stream") or item.get("status") or "").splitlines()

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image one more name."""
        with explained(image):
            self._client.api.tag(image, repository, tag)

    def push(self, repository: str, tag: str, *, username: str, password: str) -> Iterator[dict[str, Any]]:
        """Push and yield the Engine's reports; one with "error" is a failure. The password reaches the Engine alone."""
        credentials = {"username": username, "password": password}
        with explained(f"the push of {repository}:{tag}"):
            for item in self._client.api.push(repository, tag=tag, stream=True, decode=True, auth_config=credentials):
                said = failure_in(item)
                yield {**item, "error": said} if said else item

    def remove_image(self, name: str) -> bool:
        """Remove a name of an image, and the image with its last name; return whether it was there."""
        with explained(name):
            try:
                self._client.images.remove(name)
            except ImageNotFound:
                return False
            return True

    def start(self, image: str, *, files: Mapping[str, str], **options: Any) -> Container:
        """Start a container; one that could not start is removed again.

        files: paths on this machine and where each is seen, read-only, in the container. options: as docker-py's
        `containers.create`.
        """
        # Not as "path:path", where a colon in a path would be a separator, and where a path that the Engine does not
        # see would be made as an empty folder.
        mounts = [Mount(target, source, type="bind", read_only=True) for source, target in files.items()]
        with explained(f"a container of {image}"), _not_removed(image):
            container = self._client.containers.create(image, mounts=mounts, **options)
            try:
                container.start()
            except BaseException:
                with _being_removed():
                    container.remove(force=True)
                raise
            return Container(container)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """Return the containers, ended ones too, that carry all of these labels."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with explained("the containers"):
            # One that is removed while the list is made is left out.
            found = self._client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
            return [Container(container) for container in found]

    def publisher(self, port: int) -> Container | None:
        """Return the running container that publishes a port of this machine."""
        with explained("the containers"):
            for container in self._client.containers.list(filters={"publish": str(port)}, ignore_removed=True):
                return Container(container)
        return None


@dataclass(frozen=True)
class State:
    """How a container is. status: created, running, restarting, exited... exit_code: of one that has ended."""

    status: str
    exit_code: int
    out_of_memory: bool
    error: str


class Container:
    """One container. Every method raises MissingError or RemoteError; of one that is gone, `state` tells so."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self.id: str = container.id
        self.name: str = container.name
        self.labels: Mapping[str, str] = container.labels

    def state(self) -> State:
        """Return how the container is now; its status is "removed" if it is gone."""
        with explained(f"the container {self.name}"):
            try:
                self._container.reload()
            except NotFound:
                return State("removed", 0, False, "")
            state = self._container.attrs["State"]
            return State(str(state["Status"]), int(state["ExitCode"]), bool(state["OOMKilled"]), str(state["Error"]))

    def log(self, lines: int) -> list[str]:
        """Return the last lines that the container wrote; none if it is gone."""
        with explained(f"the log of {self.name}"), _being_removed():
            text: bytes = self._container.logs(tail=lines)
            return text.decode(errors="replace").splitlines()
        return []

    def follow(self) -> Iterator[str]:
        """Yield each line that the container writes from now on, until it ends."""
        with explained(f"the log of {self.name}"):
            rest = b""
            with _being_removed():
                for chunk in self._container.logs(stream=True, follow=True, tail=0):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)

    def restart_on_failure(self, times: int) -> bool:
        """Let the Engine start the container again when it fails, so many times in a row at most. False: it is gone."""
        with explained(f"the container {self.name}"), _being_removed():
            self._container.update(restart_policy={"Name": "on-failure", "MaximumRetryCount": times})
            return True
        return False

    def peak_memory(self) -> int | None:
        """Return the most memory, page cache included, that the container has held, in bytes; None where it is not counted.

        The Engine tells it with version 1 of Linux' control groups; with version 2 a file does, that the container sees.
        """
        with explained(f"the memory of {self.name}"):
            stats = self._container.stats(stream=False, one_shot=True)
            peak = stats.get("memory_stats", {}).get("max_usage")
            if peak is None:
                code, said = self._container.exec_run(["cat", "/sys/fs/cgroup/memory.peak"])
                peak = said.decode().strip() if code == 0 else None
            return int(peak) if peak else None

    def remove(self) -> None:
        """Stop and remove the container with its anonymous volumes; one that is gone is no failure."""
        with explained(f"the container {self.name}"), _being_removed():
            self._container.remove(force=True, v=True)


@contextmanager
def _being_removed() -> Iterator[None]:
    """Accept that the container is gone, or that another command removes it at this moment."""
    try:
        yield
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:
            raise


@contextmanager
def _not_removed(image: str) -> Iterator[None]:
    """Say that a container was removed while it started, as `mlinfer run-local --stop` does."""
    try:
        yield
    except ImageNotFound:
        raise
    except NotFound as error:
        message = f"a container of {image}: it was removed while it started"
        raise RemoteError("container_crashed", message, "Start it again: mlinfer run-local") from error


@contextmanager
def _logins_explained() -> Iterator[None]:
    """Say what is wrong with the logins of Docker's configuration, all of which the SDK gives to the Engine for a build."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"docker\.credentials")  # the error says it
            yield
    except (StoreError, DockerException) as error:
        if not (isinstance(error, StoreError) or str(error).startswith("Credentials store error")):
            raise
        hint = "Mend or remove credsStore and credHelpers in Docker's config.json; a public base image needs no login."
        raise MissingError("docker_logins", f"Docker's logins cannot be read: {error}", hint) from error


def failure_in(item: Mapping[str, Any]) -> str:
    """Return what a report of a build or a push says went wrong, or "".

    The API deprecates "error" in favour of "errorDetail": https://docs.docker.com/reference/api/engine/version-history/
    """
    detail = item.get("errorDetail") or {}
    return str(item.get("error") or detail.get("message") or ("unknown error" if detail else ""))


def connect(environment: Mapping[str, str], timeout_s: float = _READ_TIMEOUT_S) -> Engine:
    """Find the Engine. timeout_s: how long one answer may take to come.

    Raises MissingError with what is missing: program, service, permission, context.
    """
    where = environment.get("DOCKER_HOST", "")
    try:
        if not where:
            where = _context(environment)
        client = docker.from_env(timeout=timeout_s, environment=dict(environment))
        client.ping()
    except (DockerException, RequestException, OSError, ValueError) as error:
        raise _no_engine(error, where) from None
    return Engine(client)


def _context(environment: Mapping[str, str]) -> str:
    """Return the chosen context, "" for the default one. Raises MissingError: the SDK would fall back without a word."""
    name = environment.get("DOCKER_CONTEXT") or get_current_context_name()
    if name == "default":
        return ""
    if ContextAPI.get_context(name) is None:
        hint = f"See docker context ls, and choose one: docker context use default. {_NEEDLESS}"
        raise MissingError("docker_context", f"there is no Docker context {name!r}", hint)
    return f"the context {name}"


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turn what the SDK raises inside into a MlinferError about `subject`. Raises MissingError, RemoteError."""
    try:
        yield
    except APIError as error:
        said = str(error.explanation or error).strip()
        raise engine_refusal(subject, said) from error
    except (DockerException, RequestException) as error:
        hint = "See whether it still runs: docker info"
        raise RemoteError("docker_failed", f"{subject}: the Docker Engine stopped answering: {error}", hint) from error


def _no_engine(error: BaseException, where: str) -> MissingError:
    """Tell the reasons apart by what lies under the SDK's exception."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        inner = [arg for arg in getattr(cause, "args", ()) if isinstance(arg, BaseException)]
        cause = cause.__cause__ or cause.__context__ or (inner[0] if inner else None)  # type: ignore[assignment]
    text = " ".join(map(str, causes))
    at = f" at {where}" if where else ""
    if refused := next((cause for cause in causes if isinstance(cause, APIError)), None):
        said = str(refused.explanation or refused).strip()
        hint = f"Is this the right Engine, and does docker info work? {_NEEDLESS}"
        return MissingError("docker_refuses", f"the Docker Engine{at} answers, and refuses: {said}", hint)
    if any(isinstance(c, PermissionError) for c in causes) or "Permission denied" in text:
        hint = f"Join the group docker (sudo usermod -aG docker $USER, then log in again). {_NEEDLESS}"
        return MissingError("docker_forbidden", f"you may not use the Docker Engine{at}: permission denied", hint)
    if "SSHHTTPAdapter" in text:
        hint = f"Install it: pip install 'docker[ssh]'. {_NEEDLESS}"
        return MissingError(
            "docker_unreachable", f"the Docker Engine{at} is reached by SSH, which needs paramiko", hint
        )
    if where:
        hint = f"Is DOCKER_HOST or DOCKER_CONTEXT right, and does the Engine run there? {_NEEDLESS}"
        return MissingError("docker_unreachable", f"no Docker Engine answers{at}: {causes[-1]}", hint)
    if not (shutil.which("docker") or shutil.which("dockerd")):
        hint = f"Install it: https://docs.docker.com/engine/install/. {_NEEDLESS}"
        return MissingError("docker_not_installed", "Docker is not installed here", hint)
    start = (
        "sudo systemctl start docker" if os.name == "posix" and shutil.which("systemctl") else "start Docker Desktop"
    )
    return MissingError(
        "docker_not_running", "Docker is installed, but its Engine does not run", f"Start it: {start}. {_NEEDLESS}"
    )
