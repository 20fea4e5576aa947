"""The pages and the messages of the package speak plainly, and nothing stands on two pages."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import docutils.nodes
import pytest

from tests.packaging.law import NAME
from tests.support.paths import ROOT

from .pages import page, page_names

PHRASES = re.compile(
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b)"  # "is not a list", not "is no list"
    r"|\bknows? no\b|\bdoes as well\b|\bwhoever\b|\bsomebody\b|\bnobody can tell\b|\bunless told\b|\bwhat is no\b",
    re.IGNORECASE,
)
"""Turns of phrase that a reader stumbles over."""

IN_THE_VOICE_OF_USERS = {"CHANGELOG.rst", "CONTRIBUTING.rst", "docs/benchmarks.rst"}
"""Written for other readers than the site's."""

FEWEST_WORDS = 9


def paragraphs(name: str) -> Iterator[str]:
    for node in page(name).document.findall(docutils.nodes.paragraph):
        yield re.sub(r"\s+", " ", node.astext())


def sentences(name: str) -> set[str]:
    """The sentences of a page that are long enough to be copies of each other."""
    found = (each.strip() for text in paragraphs(name) for each in re.split(r"(?<=[.:])\s", text))
    return {each for each in found if len(each.split()) >= FEWEST_WORDS}


def test_no_sentence_stands_on_two_pages() -> None:
    places = defaultdict(list)
    for name in page_names():
        for sentence in sentences(name):
            places[sentence].append(name)
    assert len(places) > 400
    assert {sentence: names for sentence, names in places.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", sorted(set(page_names()) - IN_THE_VOICE_OF_USERS))
def test_pages_speak_plainly(name: str) -> None:
    assert [text for text in paragraphs(name) if PHRASES.search(text)] == []


def messages(file: Path) -> Iterator[str]:
    """The texts in a file's code: errors, logs, hints. Docstrings are for those who read the code."""
    tree = ast.parse(file.read_text())
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node.value


def test_messages_speak_plainly() -> None:
    files = sorted((ROOT / NAME).rglob("*.py"))
    found = [(file.name, text) for file in files for text in messages(file) if PHRASES.search(text)]
    assert found == []
