"""docs/guides/troubleshooting.rst explains all that the package logs and raises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import docutils.nodes
import pytest

from tests.packaging.law import NAME
from tests.support.paths import ROOT

from .pages import page

PAGE = page("docs/guides/troubleshooting.rst")
LEVELS = {"warning", "error", "exception", "critical", "info"}
PASSED_ON = {"%s", "%s: %s", "{text} (%d similar lines suppressed)"}
"""Records that consist of the text of an exception or of a caller, and what is added to a repeated one."""


def sources() -> list[Path]:
    return sorted((ROOT / NAME).rglob("*.py"))


def logged() -> Iterator[tuple[str, str]]:
    """Every text that the package logs above DEBUG, and where."""
    for file in sources():
        tree = ast.parse(file.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                texts: dict[str, list[ast.expr]] = {}
                for node in ast.walk(function):
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                        texts.setdefault(node.targets[0].id, []).append(node.value)
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and (text := text_of(call)) is not None:
                        values = texts[text.id] if isinstance(text, ast.Name) and text.id in texts else [text]
                        for value in values:
                            if isinstance(value, ast.Constant):
                                yield str(value.value), f"{file.name}:{call.lineno}"


def text_of(call: ast.Call) -> ast.expr | None:
    """The text of a call that logs, or None."""
    if isinstance(call.func, ast.Name) and call.func.id == "maintain":
        return ast.Constant(f"{ast.literal_eval(call.args[2])}: %s")
    if not isinstance(call.func, ast.Attribute):
        return None
    name, owner = call.func.attr, ast.unparse(call.func.value)
    if owner == "logger" and name in LEVELS:
        return call.args[0]
    if name == "_warn_missed":
        return call.args[0]
    if name == "write" and len(call.args) > 1 and ast.unparse(call.args[0]).startswith("logging."):
        return call.args[1]
    return None


def normalized(text: str) -> str:
    """A text with an ellipsis for each placeholder, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"%(?:\.\d)?[sdrgf]|\{[^}]*\}", "...", text)).strip()


LOGGED = {normalized(text): place for text, place in logged() if text not in PASSED_ON}
TERMS = [term.astext() for term in PAGE.document.findall(docutils.nodes.term)]
EXPLAINED = set(map(normalized, TERMS))


def raised() -> set[str]:
    """The names of what the package raises to its callers; `ValueError` and its like have texts of their own."""
    names = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                names.add(node.exc.func.id)
    return {name for name in names if name[0].isupper()}


NEVER_SEEN = {"ArgumentTypeError", "AttributeError", "KeyError", "MalformedPacket", "RuntimeError", "TimeoutError"}
"""What is caught again, and what only mistakes in the program raise, whose text says all."""


def test_every_exception_is_explained() -> None:
    named = {word for term in TERMS for word in re.findall(r"\b[A-Z]\w+\b", term)}
    assert raised() - NEVER_SEEN <= named | {"QueueFull", "PayloadTooLarge"}


def test_no_line_is_explained_that_is_not_logged() -> None:
    of_log = {term for term in EXPLAINED if "..." in term and not re.match(r"[A-Z]\w+(Error|Operation|Closed)\b", term)}
    assert of_log <= set(LOGGED)


def test_many_texts_were_found() -> None:
    assert len(LOGGED) > 30


@pytest.mark.parametrize("text", sorted(LOGGED))
def test_what_is_logged_is_explained(text: str) -> None:
    assert text in EXPLAINED, LOGGED[text]
