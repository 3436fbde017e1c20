"""Print every sentence that a user can see, with its place: messages, hints, help, findings, the comments of mlinfer.toml.

python tools/messages.py             # path:line: text, with {…} for what only a run can fill in
python tools/messages.py mlinfer/cli # of these folders or files only

A sentence is a string of at least two words in mlinfer or lambda_src, or the docstring of a command.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mlinfer", "lambda_src")
WORDS = re.compile(r"[A-Za-z{][\w'-]*[,:;]? +[a-z({-]")


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each sentence in a module; adjacent literals are one."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    docstrings = set(_docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | docstrings:
            text = node.value
        elif isinstance(node, ast.FunctionDef) and _is_command(node):
            text = ast.get_docstring(node) or ""
        else:
            continue
        if WORDS.search(text):
            yield node.lineno, " ".join(text.split())


def _docstrings(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield id(first.value)


def _is_command(node: ast.FunctionDef) -> bool:
    return any(re.match(r"(app\.)?command\(", ast.unparse(decorator)) for decorator in node.decorator_list)


def main(arguments: list[str]) -> None:
    """Print the sentences of the named places, or of both packages."""
    places = [Path(argument).resolve() for argument in arguments] or [ROOT / package for package in PACKAGES]
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            for line, text in sorted(sentences(path)):
                print(f"{path.relative_to(ROOT)}:{line}: {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
