"""The application: which commands there are, and how a function becomes one of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperGroup

# As the help and docs/commands.md list them: in the order of the way, then what looks after it. Each is a module of
# `commands`, named as it is typed.
COMMANDS = (
    "init",
    "predict",
    "export",
    "inspect",
    "build",
    "run-local",
    "deploy",
    "upload",
    "push",
    "status",
    "logs",
    "rollback",
    "destroy",
    "doctor",
    "bench",
    "tune",
)


class _InOrder(TyperGroup):
    def list_commands(self, _: object) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


app = typer.Typer(
    name="mlinfer",
    cls=_InOrder,
    help="Take an image classifier from a laptop to AWS Lambda, and prove at each step that the answer has not changed.\n\n"
    "Start with:  mlinfer predict cat.jpg",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Make a function the command of its name. Of a parameter that is a bundle, a dataclass, each field is a flag."""
    hints = get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters
    parameters = [flag for name in given for flag in _flags(name, hints[name], given[name].default)]

    @wraps(function)
    def call(**values: object) -> int | None:
        return function(**{name: _value(name, hints[name], values) for name in given})

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(call)
    return function


def _flags(name: str, hint: Any, default: object) -> Iterator[inspect.Parameter]:
    """Yield the parameter, or in place of a bundle those of its fields."""
    if not is_dataclass(hint):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        yield from _flags(field.name, hints[field.name], field.default)


def _value(name: str, hint: Any, values: Mapping[str, object]) -> object:
    """Return the parameter's value, or the bundle that its fields' values make."""
    if not is_dataclass(hint):
        return values[name]
    hints = get_type_hints(hint)
    return hint(**{field.name: _value(field.name, hints[field.name], values) for field in fields(hint)})  # type: ignore[operator]
