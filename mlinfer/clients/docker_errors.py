"""Turn error messages of the Docker Engine into errors with a hint. This module does not import Docker's SDK."""

from __future__ import annotations

import re

from ..errors import MissingError, MlinferError, RemoteError

_NETWORK = "Check the network and proxy of the Docker Engine with `docker pull {name}`."
# Parts of the Engine's message in lower case, error code, hint. The first match counts.
_PULLS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("toomanyrequests", "429 too many", "rate exceeded"),
        "base_image_throttled",
        "Wait a minute and try again, or log in with `{login}` for a higher limit.",
    ),
    (
        ("token has expired",),
        "base_image_login",
        "Remove the expired login with `docker logout {registry}`.",
    ),
    (
        ("requested access to the resource is denied",),
        "base_image_unavailable",
        "Check base_image in mlinfer.toml. If it is private, log in with `{login}`.",
    ),
    (
        ("denied", "403 forbidden", "401 unauthorized", "unauthorized:", "no basic auth", "authentication required"),
        "base_image_login",
        "Remove an old login with `docker logout {registry}`. {denied}",
    ),
    (
        ("x509", "certificate", "tls:"),
        "base_image_unavailable",
        "Add your proxy's certificate to the trust store of the Docker Engine's machine and restart Docker.",
    ),
    (
        ("proxyconnect",),
        "base_image_unavailable",
        "Check the proxy that `docker info` shows.",
    ),
    (
        ("no match for platform", "no matching manifest", "does not provide the specified platform"),
        "base_image_unavailable",
        "Choose another --arch, or another base_image in mlinfer.toml.",
    ),
    (
        ("no such host", "dial tcp", "lookup ", "timeout", "deadline exceeded", "connection re", "eof"),
        "base_image_unavailable",
        f"{_NETWORK} If it fails too, check base_image in mlinfer.toml.",
    ),
    (
        ("manifest", "failed to resolve reference", "no such image", "invalid reference format"),
        "base_image_unavailable",
        "Set base_image in mlinfer.toml to a Lambda base image for Python 3.12 or newer from "
        "https://gallery.ecr.aws/lambda/python.",
    ),
)
_DISK_FULL = "Free some disk space, for example with `docker system prune`."
_ECR_LOGIN = "aws ecr get-login-password | docker login --username AWS --password-stdin {registry}"
_PUBLIC_LOGIN = (
    "aws ecr-public get-login-password --region us-east-1 | docker login --username AWS --password-stdin public.ecr.aws"
)


def build_error(said: str, base: str) -> MlinferError:
    """Return the error for a failed build on the base image `base`. said: the Engine's message."""
    if "no space left" in said.lower():
        return MissingError("disk_full", "the build failed", _DISK_FULL, reason=said)
    if "returned a non-zero code" in said:
        # The command can span many lines, and the log that follows shows it.
        said = re.sub(r"The command '.*' returned", "a step returned", said, flags=re.DOTALL)
    elif explained_pull := _pull_error(base, said):
        return explained_pull
    return RemoteError(
        "build_failed", "the build failed", "Fix the error in the log above and build again.", reason=said
    )


def pull_error(name: str, said: str) -> MlinferError:
    """Return the error for a container image that cannot be pulled. said: the Engine's message."""
    return _pull_error(name, said) or RemoteError(
        "base_image_unavailable", f"cannot pull the base image {name}", _NETWORK.format(name=name), reason=said
    )


def _pull_error(name: str, said: str) -> MlinferError | None:
    """Return the error for a message about a registry, or None if the message is about something else."""
    registry = name.partition("/")[0]
    if "." not in registry and ":" not in registry and registry != "localhost":
        registry = "docker.io"
    logins = {"public.ecr.aws": _PUBLIC_LOGIN, "docker.io": "docker login"}
    is_ecr = ".dkr.ecr." in registry
    login = logins.get(registry, (_ECR_LOGIN if is_ecr else "docker login {registry}").format(registry=registry))
    is_public = registry == "public.ecr.aws"
    denied = (
        "If there is none, check the firewall and proxy." if is_public else f"If the image is private, run `{login}`."
    )
    for words, code, hint in _PULLS:
        if any(word in said.lower() for word in words):
            filled = hint.format(name=name, registry=registry, login=login, denied=denied)
            return RemoteError(code, f"cannot pull the base image {name}", filled, reason=said)
    return None


def engine_refusal(subject: str, said: str) -> MlinferError:
    """Return the error for a request that the Engine rejected. said: its message."""
    lower = said.lower()
    if "no space left" in lower:
        return MissingError("disk_full", f"{subject}: the Docker Engine's disk is full", _DISK_FULL, reason=said)
    if any(
        word in lower for word in ("port is already allocated", "address already in use", "ports are not available")
    ):
        return MissingError(
            "port_taken", f"{subject}: the port is in use", "Choose another port with --port 9001.", reason=said
        )
    if any(word in lower for word in ("bind source path does not exist", "mounts denied", "is not shared")):
        hint = (
            "Share the model's folder with Docker (Docker Desktop: Settings > Resources > File sharing), or put the model "
            "into the container image with --model-source image."
        )
        return MissingError("model_not_shared", f"{subject}: Docker cannot mount the model file", hint, reason=said)
    hint = ""
    if "is already in use by container" in lower:
        found = re.search(r'name "/?([^"]+)"', said)
        hint = f"Remove that container with `docker rm -f {found[1] if found else 'NAME'}`."
    if "cfs scheduler" in lower or "cgroup is not mounted" in lower:
        hint = (
            "Run it without Docker: `mlinfer run-local --no-docker`. This Engine cannot limit CPU and memory. A rootless one "
            "needs cgroup v2 (https://docs.docker.com/engine/security/rootless/tips/)."
        )
    if "OCI runtime" in said or "unable to start container process" in said:
        hint = "Check that base_image in mlinfer.toml is a Lambda base image for Python."
    return RemoteError("docker_refused", f"{subject}: the Docker Engine rejected the request", hint, reason=said)
