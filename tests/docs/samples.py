"""The samples of Python in a page of the documentation."""

from __future__ import annotations

from pathlib import Path

import docutils.nodes

from .test_readme import parsed


def samples(page: Path) -> list[str]:
    """The texts of the page's blocks of Python, in their order."""
    blocks = parsed(page.read_text()).findall(docutils.nodes.literal_block)
    return [block.astext() for block in blocks if "python" in block["classes"]]
