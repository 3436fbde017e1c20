"""A stand-in for Lambda's base image, for machines that cannot reach its registry: the same contract, under the same name.

It consists of Debian's Python, unpacked from .deb files (no root, no chroot, no maintainer scripts), and AWS's own runtime
client and emulator. The project's Dockerfile builds on it unchanged, as long as nothing pulls. It cannot show whether
Amazon Linux 2023, with its older glibc, can load a wheel.

    python -m devtools.base_image [PYTHON]

PYTHON is 3.13, for mlinfer's image, or 3.11, for the reference of `benchmarks/compare.py`: the CPU build of torch that it
needs may exist for one version of Python only. The stand-in for arm64 is made without running anything in it, and has the
name of AWS's image for arm64 alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import rie

PYTHON = "3.13"
NAME = f"public.ecr.aws/lambda/python:{PYTHON}"
ARM64 = f"{NAME}-arm64"
LABEL = "mlinfer.stand-in"  # its value: which version of this file made the image

SUITES = {"3.13": "trixie", "3.11": "bookworm"}  # the release of Debian that has this Python
PACKAGES = (
    *("python3-minimal", "libpython3-stdlib", "libstdc++6", "dash", "coreutils", "base-files", "netbase"),
    *("ca-certificates", "tzdata"),
)
RUNTIME = """
awslambdaric==4.2.2 --hash=sha256:2215bca01bbdbdfa9579bb4204f55d3e91e6dee589b88f8f9d20a285a790c468 \\
    --hash=sha256:bd3ebafddd6c3283a2c7f121164f304273256c7fe3f9847be44d0c5f6fd2d792 \\
    --hash=sha256:ea87f581768a7558b493a59ee9f4de6dcbc6444b888169afa01af71396ed731d
simplejson==4.3.0 --hash=sha256:2091df1a8ad3ab6920d5f47527548cfd7a636bc09d91b824db23c7e0c1ddbef2 \\
    --hash=sha256:067473d6df8c185d6b32926373de6c0069c5b351b3caa340eb547db42c722bc7 \\
    --hash=sha256:06306ed92b3860802ad9dd7fe88f122a7360b01e3936b8a355d6d689bb2bb774
snapshot-restore-py==1.0.0 --hash=sha256:38f99e696793790f54658e71c68c7a8a40cea877c81232b5052383b1301aceba
"""
PIP = "pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"

DOCKERFILE = """
FROM scratch
ADD rootfs.tar /
ENV LANG=C.UTF-8 TZ=:/etc/localtime \\
    PATH=/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin \\
    LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib \\
    LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime
COMPILE
WORKDIR /var/task
ENTRYPOINT ["/lambda-entrypoint.sh"]
"""
MODULES = ("/usr/lib/pythonPYTHON", "/usr/local/lib", "/var/runtime")
COMPILE = f"RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash {' '.join(MODULES)}"
ENTRYPOINT = """#!/bin/sh
if [ $# -ne 1 ]; then
  echo "entrypoint requires the handler name to be the first argument" 1>&2
  exit 142
fi
export _HANDLER="$1"
if [ -z "$AWS_LAMBDA_RUNTIME_API" ]; then
  exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
fi
exec /var/runtime/bootstrap
"""
BOOTSTRAP = """#!/bin/sh
export PYTHONPATH=/var/runtime
exec /var/lang/bin/python -m awslambdaric "$_HANDLER"
"""
PIP_COMMAND = """#!/var/lang/bin/python
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""
USERS = "root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/nonexistent:/bin/sh\n"
GROUPS = "root:x:0:\nsbx_user1051:x:990:\n"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"  # the machine's: pip in the image trusts whom the machine trusts
PIP_CONF = f"[global]\ncert = /{CERTIFICATES}\ndisable-pip-version-check = true\nroot-user-action = ignore\n"


def ensure_base_image(engine: Any, python: str = PYTHON, arch: str = "x86_64") -> str:
    """Return the image's name, and build the stand-in if there is none of this version. The real image is never replaced."""
    from docker.errors import ImageNotFound

    version = hashlib.sha256(Path(__file__).read_bytes() + Path(rie.__file__).read_bytes()).hexdigest()
    name = ARM64 if arch == "arm64" else NAME.replace(PYTHON, python)
    try:
        found = engine.images.get(name).labels.get(LABEL)
    except ImageNotFound:
        found = "missing"
    if found not in (None, version):
        with tempfile.TemporaryDirectory() as folder:
            make_root(Path(folder), python, arch)
            if arch == "arm64":
                add_byte_code(engine, ensure_base_image(engine, python), Path(folder) / "rootfs", python)
            pack(Path(folder), COMPILE if arch == "x86_64" else "", python)
            platform = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}[arch]
            labels = {LABEL: version}
            engine.images.build(path=f"{folder}/context", tag=name, labels=labels, platform=platform, forcerm=True)
    return name


def make_root(folder: Path, python: str, arch: str) -> None:
    """Create the root file system: the same bytes from the same packages."""
    root = folder / "rootfs"
    root.mkdir()
    unpack_debian(folder / "apt", root, SUITES[python], packages=PACKAGES, arch=arch)
    unpack_wheels(folder / "runtime", RUNTIME, root / "var/runtime", python=python, arch=arch)
    packages = root / f"usr/local/lib/python{python}/dist-packages"
    unpack_wheels(folder / "pip", PIP, packages, python=python, arch=arch)
    add_contract(root, python, arch)


def pack(folder: Path, compile_modules: str, python: str) -> None:
    """Create the build context from the root file system. compile_modules: the instruction that does it, or ""."""
    context = folder / "context"
    context.mkdir()
    dockerfile = DOCKERFILE.replace("COMPILE", compile_modules).replace("PYTHON", python)
    (context / "Dockerfile").write_text(dockerfile)
    same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
    tar = ["tar", "-cf", str(context / "rootfs.tar"), *same, "-C", str(folder / "rootfs"), "."]
    subprocess.run(tar, check=True)


def add_byte_code(engine: Any, x86_64: str, root: Path, python: str) -> None:
    """Copy the byte-code of the x86_64 stand-in: it is the same, and to compile it under emulation takes a minute."""
    container = engine.containers.create(x86_64, ["none"])
    try:
        for folder in (Path(name.replace("PYTHON", python)) for name in MODULES):
            archive = b"".join(container.get_archive(str(folder))[0])
            tar = ["tar", "-x", "-C", str(root / folder.parent.relative_to("/")), "--no-same-owner", "--wildcards"]
            subprocess.run([*tar, "*/__pycache__/*"], input=archive, check=True)
    finally:
        container.remove()


def unpack_debian(folder: Path, root: Path, suite: str, *, packages: Sequence[str], arch: str) -> None:
    """Unpack the packages and their dependencies; apt checks signatures and hashes.

    apt's state is a separate folder with nothing installed, so that this machine's packages do not matter.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text("\n".join(sources(Path("/etc/apt"), suite)))
    debian = {"x86_64": "amd64", "arm64": "arm64"}[arch]
    settings = {
        "APT::Architecture": debian,
        "APT::Architectures": debian,
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    install = ["apt-get", "-qq", "-y", *options, "--download-only", "install", *packages]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    for package in sorted(folder.glob("cache/archives/*.deb")):
        # Debian's /bin is a link to /usr/bin, which a package's own ./bin/ must not replace.
        tar = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as files:
            subprocess.run(tar, stdin=files.stdout, check=True)
        if files.returncode:
            raise RuntimeError(f"dpkg-deb could not read {package.name}")


def sources(folder: Path, suite: str) -> Iterator[str]:
    """Yield this machine's Debian sources as one-line entries for a suite.

    They are those with exactly the release's name, without its updates and other vendors.
    """
    release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    codename = release.group(1) if release else "unknown"
    found = False
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            field = dict(re.findall(r"^([\w-]+):[ \t]*(\S.*)$", stanza, re.MULTILINE))
            if codename in field.get("Suites", "").split():
                signed = f"[signed-by={field['Signed-By']}] " if "Signed-By" in field else ""
                yield from (f"deb {signed}{uri} {suite} main\n" for uri in field["URIs"].split())
                found = True
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        text = path.read_text() if path.is_file() else ""
        for options, uri in re.findall(rf"^deb\s+(\[[^]]*\]\s+)?(\S+)\s+{codename}\s", text, re.MULTILINE):
            yield f"deb {options}{uri} {suite} main\n"
            found = True
    if not found:
        raise RuntimeError(f"the base image is made of Debian's packages, and {folder} names no source of them")


def unpack_wheels(folder: Path, requirements: str, target: Path, *, python: str, arch: str) -> None:
    """Unpack the wheels of hash-pinned requirements for the stand-in's Python."""
    folder.mkdir()
    (folder / "requirements.txt").write_text(requirements)
    cpu = {"x86_64": "x86_64", "arm64": "aarch64"}[arch]
    machine = ["--python-version", python, "--platform", f"manylinux_2_28_{cpu}", "--platform", f"manylinux2014_{cpu}"]
    requirement = ["--no-deps", "--require-hashes", "-r", str(folder / "requirements.txt")]
    rie.pip_download(folder, *machine, *requirement)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as files:
            files.extractall(target)


def add_contract(root: Path, python: str, arch: str) -> None:
    """Add Lambda's files to the root file system, and remove what nothing runs."""
    for name in ("doc", "man", "locale", "info"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for name in ("var/task", "var/lang/bin", "usr/local/bin", "opt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("python", "python3", f"python{python}"):
        (root / "var/lang/bin" / name).symlink_to(f"/usr/bin/python{python}")
    (root / f"usr/lib/python{python}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for name, text in {"etc/passwd": USERS, "etc/group": GROUPS, "etc/pip.conf": PIP_CONF}.items():
        (root / name).write_text(text)
    for name, text in {
        "lambda-entrypoint.sh": ENTRYPOINT,
        "var/runtime/bootstrap": BOOTSTRAP,
        "var/lang/bin/pip": PIP_COMMAND,
    }.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    shutil.copy(Path("/") / CERTIFICATES, root / CERTIFICATES)
    shutil.copy(rie.ensure_rie(arch), root / "usr/local/bin/aws-lambda-rie")


if __name__ == "__main__":
    import docker

    sys.stdout.write(ensure_base_image(docker.from_env(), *sys.argv[1:]) + "\n")
