"""The Typer application: the list of commands, and the decorator that adds a function to it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..terminal import bold

# The commands by group, in the order of the help and of docs/commands.md. Each is a module of `commands`.
GROUPS = {
    "Start": ("predict", "export", "inspect", "init"),
    "Run locally": ("build", "run-local"),
    "Deploy": ("deploy", "status", "logs", "rollback", "destroy", "upload", "push"),
    "Measure": ("bench", "tune", "doctor"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)

# The panels of the help, in order. An option without a panel is in OPTIONS.
ARGUMENTS, OPTIONS, MODEL, IMAGES, FUNCTION, MEASUREMENT, AWS, OUTPUT = PANELS = (
    "Arguments",
    "Options",
    "Model",
    "Images",
    "Function",
    "Measurement",
    "AWS",
    "Output",
)

# Typer's own help imports rich.markdown and rich.traceback, which take as long as the rest of the help.


class _Command(TyperCommand):
    """A command with plain-text help: options in panels, and examples at the end."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)

    def format_epilog(self, _: Any, formatter: Any) -> None:
        _write_examples(self.epilog or "", formatter)


class _Group(TyperGroup):
    """The commands in the order of GROUPS, with plain-text help."""

    def list_commands(self, _: object) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for group, names in GROUPS.items():
            lines = {name: (self.commands[name].help or "").partition("\n")[0] for name in names}
            with formatter.section(bold(group)):
                formatter.write_dl([(f"{name:<9}", line) for name, line in lines.items()])
        _write_options(self, ctx, formatter)

    def format_epilog(self, _: Any, formatter: Any) -> None:
        _write_examples(self.epilog or "", formatter)


app = typer.Typer(
    name="mlinfer",
    cls=_Group,
    help="Deploy an image classifier to AWS Lambda, with every step verified.\n\n"
    "mlinfer checks that the model gives the same answer after the export, in the local container and on Lambda, "
    "before it gets any traffic.",
    epilog="mlinfer predict cat.jpg\nmlinfer deploy --bucket my-models --create-bucket\nmlinfer predict --target aws cat.jpg",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(*examples: str) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Return a decorator that adds a function as the command of its name. Each field of a dataclass parameter is an option.

    examples: command lines for the end of the help.
    """

    def add(function: Callable[..., int | None]) -> Callable[..., int | None]:
        hints = get_type_hints(function, include_extras=True)
        given = inspect.signature(function).parameters
        parameters = [flag for name in given for flag in _flags(name, hints[name], given[name].default)]

        @wraps(function)
        def call(**values: object) -> int | None:
            return function(**{name: _value(name, hints[name], values) for name in given})

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        name = function.__name__.replace("_", "-")
        panel = next(group for group, names in GROUPS.items() if name in names)
        app.command(cls=_Command, epilog="\n".join(examples), rich_help_panel=panel)(call)
        return function

    return add


def _write_options(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        default = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
        default = OUTPUT if parameter.name == "help" and panels[OUTPUT] else default
        panels[getattr(parameter, "rich_help_panel", None) or default].append((record[0], _plain(record[1])))
    for panel, records in panels.items():
        if records:
            with formatter.section(bold(panel)):
                formatter.write_dl(records)


def _plain(text: str) -> str:
    """Return the help of an option without Typer's parentheses around a default, and with ranges in words."""
    text = re.sub(r"  \[default: \((.*?)\)(?=[];])", r" [default: \1", text).replace("  [", " [")
    text = re.sub(r"(?:; x>=\d+(?:\.0)?|(?<= )\[x>=\d+(?:\.0)?\])", "", text)
    return re.sub(r"(\d+)(?:\.0)?<=x<=(\d+)(?:\.0)?", r"\1 to \2", text).rstrip()


def _write_examples(examples: str, formatter: Any) -> None:
    if examples:
        with formatter.section(bold("Examples")):
            formatter.write("".join(f"  {line}\n" for line in examples.splitlines()))


def _flags(name: str, hint: Any, default: object) -> Iterator[inspect.Parameter]:
    """Yield the parameter or, for a dataclass, a parameter for each field."""
    if not is_dataclass(hint):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        yield from _flags(field.name, hints[field.name], field.default)


def _value(name: str, hint: Any, values: Mapping[str, object]) -> object:
    """Return the value of the parameter, or the dataclass built from the values of its fields."""
    if not is_dataclass(hint):
        return values[name]
    hints = get_type_hints(hint)
    return hint(**{field.name: _value(field.name, hints[field.name], values) for field in fields(hint)})  # type: ignore[operator]
