"""`python -m mlinfer`."""

from .cli import run

run()
