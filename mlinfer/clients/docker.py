"""A typed client for the Docker Engine. No other module imports Docker's SDK.

The Engine is found as the `docker` command finds it: DOCKER_HOST, then the current context.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast
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

# Lambda's architecture -> the Engine's platform: https://docs.docker.com/build/building/multi-platform/
PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}

_READ_TIMEOUT_S = 600  # per response: a build step sends nothing while pip works
_NEEDLESS = "`mlinfer predict` and `mlinfer run-local --no-docker` work without Docker."


@dataclass(frozen=True)
class Image:
    """A container image in the Engine. arch: Lambda's name. bytes: size of all layers, uncompressed."""

    id: str
    tags: tuple[str, ...]
    arch: str
    bytes: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class EngineMachine:
    """The machine that the Engine runs on (with Docker Desktop a virtual one). memory: in bytes."""

    cores: int
    memory: int


class Engine:
    """The operations of the Docker Engine that mlinfer uses. Every method raises MissingError or RemoteError."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    @property
    def remote(self) -> str:
        """Return the host name of the Engine's machine, "ssh" for an Engine reached by SSH, or "" for this machine.

        Docker Desktop and Colima count as this machine: they listen on a local socket and share files and ports.
        """
        url = urlsplit(str(self._client.api.base_url))
        if url.scheme == "http+docker":
            return "ssh" if url.hostname == "ssh" else ""
        return "" if is_loopback(url.hostname or "") else str(url.hostname)

    def version(self) -> dict[str, Any]:
        """Return the Engine's version information, as `docker version` does."""
        with explained("Docker Engine"):
            version: dict[str, Any] = self._client.version()
            return version

    def describe(self) -> dict[str, Any]:
        """Return the Engine's machine, storage and settings, as `docker info` does."""
        with explained("Docker Engine"):
            info: dict[str, Any] = self._client.info()
            return info

    def machine(self) -> EngineMachine:
        """Return the cores and memory of the Engine's machine."""
        info = self.describe()
        return EngineMachine(int(info["NCPU"]), int(info["MemTotal"]))

    def find_image(self, name: str) -> Image | None:
        """Return a local container image by tag or id, or None."""
        with explained(f"container image {name}"):
            try:
                found = self._client.images.get(name)
            except ImageNotFound:
                return None
        arch = str(found.attrs["Architecture"])
        return Image(
            found.id, tuple(found.tags), _ARCHITECTURES.get(arch, arch), int(found.attrs["Size"]), dict(found.labels)
        )

    def find_in_registry(self, name: str) -> list[str]:
        """Return the architectures (Lambda's names) of a container image in a public registry."""
        with explained(f"container image {name}"):  # without a login: reading it could start a keychain helper
            try:
                found = self._client.api.inspect_distribution(name, auth_config={})
            except APIError as error:
                raise pull_error(name, str(error.explanation or error)) from error
            names = [str(platform.get("architecture")) for platform in found.get("Platforms") or []]
            return [_ARCHITECTURES.get(arch, arch) for arch in names]

    def layers(self, image: str) -> list[tuple[str, int]]:
        """Return the instruction and the size in bytes of each layer, topmost first."""
        with explained(f"container image {image}"):
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
        """Build the Dockerfile in a tar file and yield the log line by line.

        args: build arguments; BASE names the base image.
        """
        with explained(f"build of {tag}"):
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

    @contextmanager
    def save(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a container image as an archive, which the Engine sends while it is read."""
        with explained(f"container image {name}"):
            chunks = self._client.api.get_image(name, chunk_size=2**20)
            try:
                yield cast("IO[bytes]", io.BufferedReader(_Chunks(chunks)))
            finally:
                chunks.close()

    def load(self, archive: IO[bytes], name: str) -> None:
        """Load a container image from an archive that contains its name."""
        with explained(f"container image {name}"):
            for item in self._client.api.load_image(archive):
                if said := failure_in(item):
                    raise RemoteError("docker_refused", f"container image {name} cannot be loaded", reason=said)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Add a tag to a container image."""
        with explained(f"container image {image}"):
            self._client.api.tag(image, repository, tag)

    def push(self, repository: str, tag: str, *, username: str, password: str) -> Iterator[dict[str, Any]]:
        """Push a container image and yield the Engine's reports. A report with the key "error" means the push failed."""
        credentials = {"username": username, "password": password}
        with explained(f"push of {repository}:{tag}"):
            for item in self._client.api.push(repository, tag=tag, stream=True, decode=True, auth_config=credentials):
                said = failure_in(item)
                yield {**item, "error": said} if said else item

    def remove_image(self, name: str) -> bool:
        """Remove a tag, and the container image with its last tag. Return whether the tag existed."""
        with explained(f"container image {name}"):
            try:
                self._client.images.remove(name)
            except ImageNotFound:
                return False
            return True

    def start(self, image: str, *, files: Mapping[str, str], **options: Any) -> Container:
        """Start a container. If it fails to start, it is removed.

        files: path on this machine -> path in the container, mounted read-only. options: those of docker-py's
        `containers.create`.
        """
        # "path:path" strings break on a colon in a path, and Docker creates an empty folder for a path that it cannot see.
        mounts = [Mount(target, source, type="bind", read_only=True) for source, target in files.items()]
        with explained(f"container of {image}"), _not_removed(image):
            container = self._client.containers.create(image, mounts=mounts, **options)
            try:
                container.start()
            except BaseException:
                with _being_removed():
                    container.remove(force=True)
                raise
            return Container(container)

    def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """Return all containers, including stopped ones, that have all of these labels."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with explained("list of containers"):
            # ignore_removed: a container can be removed while docker-py inspects the list.
            found = self._client.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
            return [Container(container) for container in found]

    def publisher(self, port: int) -> Container | None:
        """Return the running container that publishes a port of this machine, or None."""
        with explained("list of containers"):
            for container in self._client.containers.list(filters={"publish": str(port)}, ignore_removed=True):
                return Container(container)
        return None


@dataclass(frozen=True)
class State:
    """The state of a container. status: "created", "running", "restarting", "exited", ... or "removed"."""

    status: str
    exit_code: int
    out_of_memory: bool
    error: str


class Container:
    """One container. Every method raises MissingError or RemoteError."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self.id: str = container.id
        self.name: str = container.name
        self.labels: Mapping[str, str] = container.labels

    def state(self) -> State:
        """Return the current state; its status is "removed" if the container no longer exists."""
        with explained(f"container {self.name}"):
            try:
                self._container.reload()
            except NotFound:
                return State("removed", 0, False, "")
            state = self._container.attrs["State"]
            return State(str(state["Status"]), int(state["ExitCode"]), bool(state["OOMKilled"]), str(state["Error"]))

    def log(self, lines: int) -> list[str]:
        """Return the last lines of the container's log; none if the container no longer exists."""
        with explained(f"log of container {self.name}"), _being_removed():
            text: bytes = self._container.logs(tail=lines)
            return text.decode(errors="replace").splitlines()
        return []

    def follow(self) -> Iterator[str]:
        """Yield each new log line of the container until it exits."""
        with explained(f"log of container {self.name}"):
            rest = b""
            with _being_removed():
                for chunk in self._container.logs(stream=True, follow=True, tail=0):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)

    def restart_on_failure(self, times: int) -> bool:
        """Let the Engine restart the container when it fails, at most `times` times in a row.

        Returns False if the container no longer exists.
        """
        with explained(f"container {self.name}"), _being_removed():
            self._container.update(restart_policy={"Name": "on-failure", "MaximumRetryCount": times})
            return True
        return False

    def peak_memory(self) -> int | None:
        """Return the peak memory of the container in bytes, including page cache; None if the kernel does not count it.

        The Engine reports it with cgroup v1. With v2 it is read from a file in the container.
        """
        with explained(f"memory of container {self.name}"):
            stats = self._container.stats(stream=False, one_shot=True)
            peak = stats.get("memory_stats", {}).get("max_usage")
            if peak is None:
                code, said = self._container.exec_run(["cat", "/sys/fs/cgroup/memory.peak"])
                peak = said.decode().strip() if code == 0 else None
            return int(peak) if peak else None

    def remove(self) -> None:
        """Stop and remove the container and its anonymous volumes, if it exists."""
        with explained(f"container {self.name}"), _being_removed():
            self._container.remove(force=True, v=True)


class _Chunks(io.RawIOBase):
    """A stream from chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


@contextmanager
def _being_removed() -> Iterator[None]:
    """Ignore that the container no longer exists or that another command is removing it."""
    try:
        yield
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:
            raise


@contextmanager
def _not_removed(image: str) -> Iterator[None]:
    """Explain that a container was removed while it started, for example by `mlinfer run-local --stop`."""
    try:
        yield
    except ImageNotFound:
        raise
    except NotFound as error:
        message = f"container of {image} was removed while it started"
        raise RemoteError("container_crashed", message, "Start it again with `mlinfer run-local`.") from error


@contextmanager
def _logins_explained() -> Iterator[None]:
    """Explain a broken login in Docker's configuration: for a build the SDK sends all logins to the Engine."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"docker\.credentials")  # the error says the same
            yield
    except (StoreError, DockerException) as error:
        if not (isinstance(error, StoreError) or str(error).startswith("Credentials store error")):
            raise
        hint = "Fix or remove credsStore and credHelpers in Docker's config.json (a public base image needs no login)."
        raise MissingError("docker_logins", "cannot read Docker's logins", hint, reason=error) from error


def failure_in(item: Mapping[str, Any]) -> str:
    """Return the error message in a report of a build or push, or "".

    "error" is deprecated in favour of "errorDetail": https://docs.docker.com/reference/api/engine/version-history/
    """
    detail = item.get("errorDetail") or {}
    return str(item.get("error") or detail.get("message") or ("unknown error" if detail else ""))


def connect(environment: Mapping[str, str], timeout_s: float = _READ_TIMEOUT_S) -> Engine:
    """Connect to the Engine. timeout_s: for each response. Raises MissingError."""
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
    """Return the chosen context, "" for the default one.

    Raises MissingError for an unknown context, where the SDK would silently use the default.
    """
    name = environment.get("DOCKER_CONTEXT") or get_current_context_name()
    if name == "default":
        return ""
    if ContextAPI.get_context(name) is None:
        hint = f"Choose one of `docker context ls` with `docker context use NAME`. {_NEEDLESS}"
        raise MissingError("docker_context", f"Docker context {name!r} does not exist", hint)
    return f"context {name}"


@contextmanager
def explained(subject: str) -> Iterator[None]:
    """Turn exceptions of the SDK into MlinferErrors about `subject`. Raises MissingError, RemoteError."""
    try:
        yield
    except APIError as error:
        said = str(error.explanation or error).strip()
        raise engine_refusal(subject, said) from error
    except (DockerException, RequestException) as error:
        hint = "Check that Docker is running with `docker info`."
        message = f"{subject}: lost the connection to the Docker Engine"
        raise RemoteError("docker_failed", message, hint, reason=error) from error


def _no_engine(error: BaseException, where: str) -> MissingError:
    """Return the error for an Engine that cannot be used, from the causes of the SDK's exception."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        inner = [arg for arg in getattr(cause, "args", ()) if isinstance(arg, BaseException)]
        cause = cause.__cause__ or cause.__context__ or (inner[0] if inner else None)  # type: ignore[assignment]
    text = " ".join(map(str, causes))
    at = f" {'in' if where.startswith('context ') else 'at'} {where}" if where else ""
    if refused := next((cause for cause in causes if isinstance(cause, APIError)), None):
        said = str(refused.explanation or refused).strip()
        hint = f"Check the Engine with `docker info`. {_NEEDLESS}"
        return MissingError("docker_refuses", f"the Docker Engine{at} rejected the request", hint, reason=said)
    if any(isinstance(c, PermissionError) for c in causes) or "Permission denied" in text:
        hint = f"Join the docker group with `sudo usermod -aG docker $USER`, then log in again. {_NEEDLESS}"
        return MissingError("docker_forbidden", f"permission denied for the Docker Engine{at}", hint)
    if "SSHHTTPAdapter" in text:
        hint = f"Install it with `pip install 'docker[ssh]'`. {_NEEDLESS}"
        reason = "SSH needs paramiko, which is not installed"
        return MissingError("docker_unreachable", f"cannot connect to the Docker Engine{at}", hint, reason=reason)
    if where:
        hint = f"Check DOCKER_HOST and DOCKER_CONTEXT, and that Docker is running there. {_NEEDLESS}"
        return MissingError(
            "docker_unreachable",
            f"cannot connect to the Docker Engine{at}",
            hint,
            reason=getattr(causes[-1], "strerror", "") or causes[-1],
        )
    if not (shutil.which("docker") or shutil.which("dockerd")):
        hint = f"Install it from https://docs.docker.com/engine/install/. {_NEEDLESS}"
        return MissingError("docker_not_installed", "Docker is not installed", hint)
    has_systemd = os.name == "posix" and shutil.which("systemctl")
    start = "Start it with `sudo systemctl start docker`." if has_systemd else "Start Docker Desktop."
    return MissingError("docker_not_running", "Docker is installed but not running", f"{start} {_NEEDLESS}")
