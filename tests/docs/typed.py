"""``python -m tests.docs.typed``: mypy --strict on every sample of the documentation. It is a part of ``.ci/qa.py``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from tests.support.paths import ROOT

from .pages import page, page_names

CAPTIONED = "docs/tutorial.rst"
"""Its blocks are files of one project, which tests/browser/test_tutorial.py makes and runs."""

UNTYPED = {"mysite/settings.py", "mysite/asgi.py"}
"""Django's own settings, and routing as Channels' documentation has it, which the stubs of Django refuse."""

STUBS = {
    "chat/__init__.py": "",
    "chat/models.py": """
from typing import ClassVar

from django.db import models


class Line(models.Model):
    room: "models.CharField[str, str]" = models.CharField(max_length=100)
    text: "models.TextField[str, str]" = models.TextField()
    objects: ClassVar[models.Manager["Line"]] = models.Manager()
""",
    "chat/pictures.py": "def make_thumbnail(path: str) -> None: ...\n",
    "mysite/__init__.py": "",
}
"""What samples import from the reader's own project."""


def write_project(folder: Path) -> None:
    """Write what samples import."""
    layers = page("docs/reference/custom-layers.rst").code("echo")
    for name, text in {**STUBS, "mysite/layers.py": layers}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


FRAGMENT = """from typing import Any

from django_anyio_channels import AnyioChannelLayer


async def fragment(self: Any, layer: AnyioChannelLayer, channel: str, user: Any) -> None:
"""
"""Where a sample stands that awaits something and is no program: in a method of a consumer, with its layer."""


def whole(code: str) -> str:
    """A sample as a module: one that awaits outside of functions is put into one."""
    awaits = (ast.Await, ast.AsyncWith, ast.AsyncFor)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    outside = [node for node in ast.parse(code).body if not isinstance(node, functions)]
    if any(isinstance(inner, awaits) for node in outside for inner in ast.walk(node)):
        return FRAGMENT + textwrap.indent(code, "    ") + "\n"
    return code + "\n"


def write_samples(folder: Path) -> dict[str, str]:
    """Write each sample into a file; return the files, and where in the documentation they stand."""
    places: dict[str, str] = {}
    for name in page_names():
        for block in page(name).in_language("python"):
            if block["caption"] in UNTYPED:
                continue
            file = folder / (block["caption"] if name == CAPTIONED else f"sample_{len(places)}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(whole(block.astext()))
            places[str(file.relative_to(folder))] = f"{name}, line {block.line}"
    return places


def main() -> int:
    """Print what mypy finds, with pages and lines; return its exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_project(folder)
        places = write_samples(folder)
        (folder / "mypy.ini").write_text(
            "[mypy]\nstrict = true\nexplicit_package_bases = true\nfollow_imports = silent\n"
            f"cache_dir = {ROOT / '.mypy_cache' / 'samples'}\nmypy_path = {ROOT}\n"
            "[mypy-health_check.*]\nignore_missing_imports = true\n"
        )
        command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *places]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
        print(re.sub(r"^([\w/]+\.py)", lambda match: places.get(match[0], match[0]), done.stdout, flags=re.MULTILINE))
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
