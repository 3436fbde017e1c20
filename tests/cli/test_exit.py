"""A command ends at once after its output, and loses nothing by that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlinfer import __version__

RUN = "import sys; sys.argv[1:] = ['--version']; from mlinfer.__main__ import run; run()"


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    """Run `mlinfer --version` in a process after other code."""
    return subprocess.run([sys.executable, "-c", code + RUN], capture_output=True, text=True)


def test_python_is_not_finalized() -> None:
    """The process ends without destroying Python's objects, which takes a tenth of the time of a prediction."""
    code = "import os\nclass Kept:\n    def __del__(self, write=os.write): write(1, b'destroyed')\nkept = Kept()\n"
    done = run_program(code)
    assert (done.returncode, done.stdout) == (0, f"mlinfer {__version__}\n")


@pytest.mark.parametrize(
    "code",
    [
        "import atexit; atexit.register(print, 'late')\n",
        "import weakref\nclass Some: pass\nsome = Some(); weakref.finalize(some, print, 'late')\n",
        "import threading; thread = threading.Thread(target=lambda: (threading.main_thread().join(), print('late')))\n"
        "thread.start()\n",
        "import os, sys\nclass Late:\n    def __del__(self, write=os.write): write(1, b'late\\n')\n"
        "late = Late(); sys.settrace(lambda *_: None)\n",
    ],
    ids=["atexit", "finalizer", "thread", "debugger"],
)
def test_what_python_does_at_its_end_is_done(code: str) -> None:
    """Exit handlers, finalizers and threads still run, and a debugger or profiler ends as usual."""
    done = run_program(code)
    assert (done.returncode, set(done.stdout.splitlines())) == (0, {f"mlinfer {__version__}", "late"})


def test_a_profile_is_written() -> None:
    """`python -m cProfile -m mlinfer` prints its profile."""
    command = [sys.executable, "-m", "cProfile", "-m", "mlinfer", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "function calls" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["predict"], ["predict", "none.jpg"]])
def test_the_exit_code_is_that_of_the_command(arguments: list[str]) -> None:
    """A command's exit code reaches the caller: success, wrong usage, a missing image."""
    done = subprocess.run([sys.executable, "-m", "mlinfer", *arguments], capture_output=True)
    assert done.returncode == {"--version": 0, "predict": 2, "none.jpg": 5}[arguments[-1]]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_lost_output_is_an_error() -> None:
    """If the end of the output cannot be written, the exit code is not 0."""
    code = "import atexit, sys; atexit.register(sys.stdout.write, 'late')\n"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code + RUN], stdout=full, stderr=subprocess.DEVNULL)
    assert done.returncode
