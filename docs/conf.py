"""Sphinx's configuration of the documentation site."""

import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

_project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]

project = _project["name"]
author = _project["authors"][0]["name"]
project_copyright = f"%Y, {author}"
version = release = _project["version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "python"
html_theme = "furo"
html_title = f"{project} {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# References to other projects are not looked up, so that a build needs no network; type variables, and what only the
# package itself hands to `Channel`, have no page.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!django_anyio_channels).*"),
    ("py:.*", r"django_anyio_channels\.core\.(capabilities\.Result|events\.Message|notifier\.Waiter)"),
    ("py:.*", r"django_anyio_channels\.hub\.subscriptions\.MarkedReader"),
]
