"""The documentation's pages, read by docutils: what Sphinx adds to the language is known here, too."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import docutils.nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.directives.body import CodeBlock

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
AT_THE_ROOT = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst"]
INCLUDED = {"index.rst", "changelog.rst", "policies/contributing.rst", "policies/security.rst"}
"""Pages of the site that include one at the root."""


class _CodeBlock(CodeBlock):
    """Sphinx' ``code-block``: its caption, the name of a file, is an attribute of the node."""

    option_spec: ClassVar[Any] = {**(CodeBlock.option_spec or {}), "caption": directives.unchanged}

    def run(self) -> list[docutils.nodes.Node]:
        caption = self.options.pop("caption", "")
        nodes: list[docutils.nodes.Node] = super().run()  # type: ignore[no-untyped-call]
        for node in nodes:
            if isinstance(node, docutils.nodes.Element):
                node["caption"] = caption
                node.line = self.lineno
        return nodes


class _AnyOption(dict[str, Callable[[str], str]]):
    def __getitem__(self, key: str) -> Callable[[str], str]:
        return directives.unchanged


class _Ignored(Directive):
    """A directive of Sphinx that shows what isn't written on the page."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[Any] = _AnyOption()

    def run(self) -> list[docutils.nodes.Node]:
        return []


for _name in ("toctree", "currentmodule", "autoclass", "autofunction", "autoexception", "automodule"):
    directives.register_directive(_name, _Ignored)
directives.register_directive("code-block", _CodeBlock)
for _name in ("doc", "ref"):
    roles.register_generic_role(_name, docutils.nodes.inline)


def parsed(text: str) -> docutils.nodes.document:
    """docutils raises for every mistake."""
    return publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 2, "input_encoding": "unicode"})


def page_names() -> list[str]:
    """Every page with a text of its own, relative to the checkout."""
    site = sorted(file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.rst") if "_build" not in file.parts)
    return [*AT_THE_ROOT, *(f"docs/{name}" for name in site if name not in INCLUDED)]


@lru_cache
def page(name: str) -> Page:
    """A page by its path from the checkout."""
    return Page(ROOT / name)


class Page:
    """One page: its blocks of code and its tables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        self.document = parsed(self.text)
        self.blocks = [
            each for each in self.document.findall(docutils.nodes.literal_block) if "code" in each["classes"]
        ]

    def in_language(self, language: str) -> list[docutils.nodes.literal_block]:
        return [block for block in self.blocks if language in block["classes"]]

    def code(self, name: str) -> str:
        """The text of the one block of this class."""
        [block] = self.in_language(name)
        return block.astext()

    def run(self, name: str) -> dict[str, Any]:
        """What the one block of this class defines when it is executed."""
        names: dict[str, Any] = {}
        exec(self.code(name), names)
        return names

    def rows(self, name: str) -> dict[str, list[str]]:
        """The rows of the one table of this class, without the header: first cell -> the others."""
        [table] = [table for table in self.document.findall(docutils.nodes.table) if name in table["classes"]]
        return cells_of(table)

    def words(self, name: str) -> set[str]:
        """The words in the first cells of a table."""
        return {word for cell in self.rows(name) for word in cell.split()}


def cells_of(table: docutils.nodes.table) -> dict[str, list[str]]:
    [body] = table.findall(docutils.nodes.tbody)
    lines = body.findall(docutils.nodes.row)
    cells = [[entry.astext() for entry in line.findall(docutils.nodes.entry)] for line in lines]
    return {first: others for first, *others in cells}
