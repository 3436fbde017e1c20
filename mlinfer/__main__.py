"""The `mlinfer` program. It handles Ctrl-C before all other imports, so that an early Ctrl-C shows no traceback."""

import _signal  # type: ignore[import-not-found]  # `signal` imports enum, and Ctrl-C in an import ends in a traceback
import os
import sys
from types import FrameType

AGAIN_S = 0.01
# Ctrl-C waits until these functions have written everything or have taken or released a lock (urllib3 would wait for
# it without end), and until an import ends, which Python cannot repeat.
WHOLE = ("Terminal.text", "show_report", "write_whole", "Condition.__enter__", "Condition.__exit__")

_running = False  # a command runs and may have to clean up


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt while a command runs; otherwise end the process."""
    if not _running:
        os._exit(130)
    while frame:
        code = frame.f_code
        if (code.co_filename.startswith("<frozen importlib") or code.co_qualname in WHOLE) and _come_again():
            return
        frame = frame.f_back
    raise KeyboardInterrupt


if (
    _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
):  # otherwise SIGINT is ignored, as in a background job
    _signal.signal(_signal.SIGINT, _interrupt)


def _come_again() -> bool:
    """Call `_interrupt` again in a moment; return False if this system cannot do that."""
    if not hasattr(_signal, "setitimer"):  # Windows
        return False
    _signal.signal(_signal.SIGALRM, _interrupt)
    _signal.setitimer(_signal.ITIMER_REAL, AGAIN_S)
    return True


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Repeat an interrupt that came where Python drops exceptions, such as in a `__del__`."""
    if lost.exc_type is not KeyboardInterrupt or not _come_again():
        sys.__unraisablehook__(lost)


def run() -> None:
    """Run `main` and exit with its code."""
    global _running
    import signal
    from pathlib import Path

    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):  # Windows has no SIGHUP
        if signal.getsignal(number) == signal.SIG_DFL:  # otherwise it is ignored, as under nohup
            signal.signal(number, lambda signum, _: sys.exit(128 + signum))  # so that incomplete files are removed
    sys.unraisablehook = _unraisable
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - None if the caller closed it
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    from .cli import main

    try:
        _running = True
        code = main()
    except KeyboardInterrupt:
        code = 130
    _running = False
    for number in filter(None, (signal.SIGINT, getattr(signal, "SIGALRM", None))):
        signal.signal(number, signal.SIG_IGN)  # the command has ended with its exit code
    _leave(code)


def _leave(code: int) -> None:
    """End the process without Python's finalization: a tenth of the time of `predict`, to free what the kernel frees.

    What a program can lose by that is done first, or Python ends the process: after an error of a standard stream, while
    threads run, and under coverage, a profiler or a debugger, which write their results after us.
    """
    import atexit

    threads = sys.modules["threading"].active_count() if "threading" in sys.modules else 1
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    watched = sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6))))
    if threads == 1 and not watched:
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass
        else:
            os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
