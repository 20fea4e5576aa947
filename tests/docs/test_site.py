"""``python3 docs`` builds the site and serves it. The second command builds it, too, with warnings as errors."""

from __future__ import annotations

import runpy
import shutil
import sys
import tomllib
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers.server import Server, free_port, new_folder, running
from tests.support.paths import ROOT

from .pages import DOCS
from .typed import whole, write_samples

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[str, list[str]]:
    """The dependency group and the command that ``python3 docs`` becomes, without making an environment."""
    became: list[str] = []
    groups: list[str] = []

    def environment(group: str) -> str:
        groups.append(group)
        return sys.executable

    bootstrap = types.ModuleType("bootstrap")
    bootstrap.__dict__.update(ROOT=ROOT, environment=environment, run=lambda *words: became.extend(words))
    monkeypatch.setitem(sys.modules, "bootstrap", bootstrap)
    monkeypatch.setattr(sys, "argv", ["docs", *arguments])
    runpy.run_path(str(DOCS / "__main__.py"), run_name="__main__")
    [group] = groups
    return group, became


def test_a_site_is_built_and_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page stands for all, which would take half a minute on a busy machine: the second command builds them."""
    port = free_port()
    group, words = command(monkeypatch, "--port", str(port))
    needed = {line.partition(">")[0] for line in PROJECT["dependency-groups"][group]}
    assert needed == {"furo", "sphinx", "sphinx-autobuild"}
    assert words[-2:] == [str(DOCS), str(DOCS / "_build" / "html")]

    folder = new_folder("site")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(DOCS / "conf.py", folder / "docs")
    (folder / "docs" / "index.rst").write_text("Served\n======\n")
    words[-2:] = [str(folder / "docs"), str(folder / "html")]

    def serves() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return b"<h1>Served" in answer.read()

    with running(Server("docs", port, words, serves, folder)):
        assert serves()


def test_the_second_command_builds_it_too() -> None:
    checks = (ROOT / ".ci" / "qa.py").read_text()
    assert '"sphinx", "--fail-on-warning"' in checks
    assert '"tests.docs.typed"' in checks
    assert {"include-group": "docs"} in PROJECT["dependency-groups"]["test"]


def test_types_are_checked_in_every_sample(tmp_path: Path) -> None:
    places = write_samples(tmp_path)
    assert len(places) > 35
    assert whole("await layer.flush()\n").endswith(" -> None:\n    await layer.flush()\n\n")
    assert {"chat/consumers.py", "chat/tests.py", "mysite/urls.py", "chat/management/commands/say.py"} <= places.keys()
