"""The `mlinfer` program: it sets the process up, and imports the commands only then, so that Ctrl-C is always quiet."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path


def run() -> None:
    """Run `main` and exit with its code."""
    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):  # Windows knows no closed terminal
        if signal.getsignal(number) == signal.SIG_DFL:  # else, as under nohup, it is to be ignored
            signal.signal(number, lambda signum, _: sys.exit(128 + signum))  # so that what is half made is taken back
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - None where the caller has closed it
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    try:
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # while the commands were imported
        code = 130
    gc.freeze()  # else the interpreter, as it ends, looks for cycles in all that was imported: a tenth of `predict`
    sys.exit(code)


if __name__ == "__main__":
    run()
