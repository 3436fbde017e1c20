"""Run arm64 programs on an x86_64 machine: qemu in user mode, which the kernel starts for each arm64 program.

    python -m devtools.emulation start|stop|running

`start` needs root and Debian's packages. Emulation is for tests of function and of equal answers: a program takes many
times as long. qemu 7.2 of Debian 12 hangs in onnxruntime, so that of Debian 13 is unpacked, beside what is installed.
https://docs.kernel.org/admin-guide/binfmt-misc.html
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import base_image
from .rie import CACHE

REGISTER = Path("/proc/sys/fs/binfmt_misc")
NAME = "qemu-aarch64"  # as Debian's package and Docker's image call it
# The header of an ELF file for aarch64: 64 bits, little-endian, an executable or a library.
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


def unavailable() -> str | None:
    """Return why arm64 programs cannot run here, or None."""
    if platform.machine() in ("aarch64", "arm64") or (REGISTER / NAME).exists():
        return None
    return "no emulator of arm64 is registered: run `python -m devtools.emulation start` as root"


def running() -> None:
    """Exit with status 1 and the reason if arm64 programs cannot run here."""
    if reason := unavailable():
        sys.exit(reason)


def start() -> None:
    """Register the emulator. The kernel keeps it open (flag F), so containers need no copy. Raises OSError."""
    if os.getuid() != 0:
        sys.exit("only root can register an emulator")
    if not (REGISTER / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(REGISTER)], check=True)
    if unavailable():
        (REGISTER / "register").write_text(f":{NAME}:M::{MAGIC}:{MASK}:{ensure_qemu()}:F")


def stop() -> None:
    """Remove the emulator from the kernel. Raises OSError."""
    if (REGISTER / NAME).exists():
        (REGISTER / NAME).write_text("-1")


def ensure_qemu() -> Path:
    """Return the path of the emulator; download it from Debian the first time. Raises CalledProcessError."""
    path = CACHE / "qemu-aarch64-trixie"
    if not path.is_file():
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            root = Path(folder) / "root"
            root.mkdir()
            base_image.unpack_debian(Path(folder) / "apt", root, "trixie", packages=["qemu-user"], arch="x86_64")
            whole = Path(folder) / "whole"
            shutil.copy(root / "usr/bin/qemu-aarch64", whole)
            whole.replace(path)
    return path


if __name__ == "__main__":
    {"start": start, "stop": stop, "running": running}[sys.argv[1]]()
