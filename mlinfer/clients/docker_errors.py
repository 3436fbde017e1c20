"""What the Docker Engine says when it refuses something -> errors with their remedy. It holds no code of Docker's SDK."""

from __future__ import annotations

import re

from ..errors import MissingError, MlinferError, RemoteError

_NETWORK = "Check the network and the proxy of the Engine's machine with: docker pull {name}"
# What the Engine says when it cannot pull, in lower case, the error's code and what to do; the first that fits counts.
_PULLS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("toomanyrequests", "429 too many", "rate exceeded"),
        "base_image_throttled",
        "{registry} limits the pulls of each address. Wait a minute and try again, or log in: {login}",
    ),
    (
        ("token has expired",),
        "base_image_login",
        "Docker sends an old login, which {registry} refuses. Remove it: docker logout {registry}",
    ),
    (
        ("requested access to the resource is denied",),
        "base_image_unavailable",
        "Check base_image in mlinfer.toml. If that image is private, log in: {login}",
    ),
    (
        ("denied", "403 forbidden", "401 unauthorized", "unauthorized:", "no basic auth", "authentication required"),
        "base_image_login",
        "If Docker has an old login for {registry}, remove it: docker logout {registry}. {denied}",
    ),
    (
        ("x509", "certificate", "tls:"),
        "base_image_unavailable",
        "Add the certificate of your proxy to the trust store of the Engine's machine, and restart the Engine.",
    ),
    (
        ("proxyconnect",),
        "base_image_unavailable",
        "The Engine does not reach its proxy. docker info shows which one it uses.",
    ),
    (
        ("no match for platform", "no matching manifest", "does not provide the specified platform"),
        "base_image_unavailable",
        "{name} does not exist for this architecture. Choose another --arch, or another base_image in mlinfer.toml.",
    ),
    (
        ("no such host", "dial tcp", "lookup ", "timeout", "deadline exceeded", "connection re", "eof"),
        "base_image_unavailable",
        f"{_NETWORK}. Is base_image in mlinfer.toml right?",
    ),
    (
        ("manifest", "failed to resolve reference", "no such image", "invalid reference format"),
        "base_image_unavailable",
        "Check base_image in mlinfer.toml. It must be a Lambda base image for Python 3.12 or newer: "
        "https://gallery.ecr.aws/lambda/python",
    ),
)
_ECR_LOGIN = "aws ecr get-login-password | docker login --username AWS --password-stdin {registry}"
_PUBLIC_LOGIN = (
    "aws ecr-public get-login-password --region us-east-1 | docker login --username AWS --password-stdin public.ecr.aws"
)


def build_error(said: str, base: str) -> MlinferError:
    """Explain why a build on a base image failed."""
    if "no space left" in said.lower():
        return MissingError("disk_full", f"the build failed: {said}", "Make room, for example: docker system prune")
    if "returned a non-zero code" in said:
        said = re.sub(r"The command '.*' returned", "a step returned", said, flags=re.DOTALL)  # its lines begin with it
    elif explained_pull := _pull_error(base, said):
        return explained_pull
    return RemoteError("build_failed", f"the build failed: {said}", "The lines above are the failing step's last.")


def pull_error(name: str, said: str) -> MlinferError:
    """Explain why an image cannot be pulled."""
    return _pull_error(name, said) or RemoteError(
        "base_image_unavailable", f"cannot pull the base image {name}: {said}", _NETWORK.format(name=name)
    )


def _pull_error(name: str, said: str) -> MlinferError | None:
    """Return what the Engine's words about a registry mean, or None for words that are not about one."""
    registry = name.partition("/")[0]
    if "." not in registry and ":" not in registry and registry != "localhost":
        registry = "docker.io"
    logins = {"public.ecr.aws": _PUBLIC_LOGIN, "docker.io": "docker login"}
    is_ecr = ".dkr.ecr." in registry
    login = logins.get(registry, (_ECR_LOGIN if is_ecr else "docker login {registry}").format(registry=registry))
    is_public = registry == "public.ecr.aws"
    denied = "If it has none, a firewall or proxy refuses the pull." if is_public else f"If it needs a login: {login}"
    for words, code, hint in _PULLS:
        if any(word in said.lower() for word in words):
            filled = hint.format(name=name, registry=registry, login=login, denied=denied)
            return RemoteError(code, f"cannot pull the base image {name}: {said}", filled)
    return None


def engine_refusal(subject: str, said: str) -> MlinferError:
    """Explain what the Engine refused, from its own words."""
    lower = said.lower()
    if "no space left" in lower:
        return MissingError("disk_full", f"{subject}: {said}", "Make room, for example: docker system prune")
    if any(
        word in lower for word in ("port is already allocated", "address already in use", "ports are not available")
    ):
        return MissingError("port_taken", f"{subject}: {said}", "Choose another: --port 9001")
    if any(word in lower for word in ("bind source path does not exist", "mounts denied", "is not shared")):
        hint = (
            "The Engine does not see this file. Share its folder (Docker Desktop: Settings, Resources, File sharing), move "
            "the model to a shared folder, or put it into the image: --model-source image"
        )
        return MissingError("model_not_shared", f"{subject}: {said}", hint)
    hint = ""
    if "is already in use by container" in lower:
        found = re.search(r'name "/?([^"]+)"', said)
        hint = f"Remove that container: docker rm -f {found[1] if found else ''}".rstrip()
    if "cfs scheduler" in lower or "cgroup is not mounted" in lower:
        hint = (
            "This Engine cannot limit CPU and memory. A rootless one needs cgroup v2 with delegated controllers: "
            "https://docs.docker.com/engine/security/rootless/tips/. Or use no Docker: mlinfer run-local --no-docker"
        )
    if "OCI runtime" in said or "unable to start container process" in said:
        hint = "Is base_image in mlinfer.toml a base image of Lambda for Python?"
    return RemoteError("docker_refused", f"{subject}: the Docker Engine refused: {said}", hint)
