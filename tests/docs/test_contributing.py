"""CONTRIBUTING.rst: its map has every room of the house, and every path that it names exists."""

from __future__ import annotations

import re

import pytest

from tests.packaging.law import NAME
from tests.support.paths import ROOT

from .pages import page, page_names

TEXT = (ROOT / "CONTRIBUTING.rst").read_text()
PAGE = page("CONTRIBUTING.rst")
PACKAGE = ROOT / NAME
FOLDERS = [
    "",
    "core",
    "hub",
    *(f"brokers/{name}" for name in ("common", "memory", "redis", "postgres", "mqtt")),
    "django",
    "testing",
]
UNRELATED = {"home/kitchen/temperature", "home/hall/lamp", "sensors/+/value"}
"""Not paths of this project: topics."""
PAGES = [name for name in page_names() if name != "CHANGELOG.rst"]


def mapped() -> set[str]:
    """The rooms of the map, without the slash after a folder."""
    return {room.rstrip("/") for room in PAGE.rows("map")}


def rooms(folder: str) -> set[str]:
    """The files of a folder of the package, and the folders that are rooms themselves."""
    entries = (PACKAGE / folder).iterdir()
    found = {entry.relative_to(PACKAGE).as_posix() for entry in entries if entry.name[0] not in "_."} - {"py.typed"}
    return found - {name for name in ("core", "hub", "brokers", "django", "testing") if not folder}


def test_map_has_every_room_and_no_other() -> None:
    standing = {room for folder in FOLDERS for room in rooms(folder)}
    assert mapped() - standing == set(), "in the map only"
    assert standing - mapped() == set(), "missing in the map"


def paths(text: str) -> set[str]:
    """What looks like a path: between backquotes with a slash or the ending of a file at the root, or in a command."""
    named = re.findall(r"``([\w./-]+)``", text) + re.findall(r"\b((?:tests|benchmarks)/[\w./]+\.py)\b", text)
    return {each for each in named if re.search(r"\w/|\.(rst|toml|cfg|ini)$", each)}


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    named = paths((ROOT / page).read_text())
    missing = {path for path in named if not any((base / path).exists() for base in (ROOT, PACKAGE))}
    of_readers = {path for path in missing if path.split("/")[0] in ("", "chat", "mysite")}
    assert missing - UNRELATED - of_readers == set()


def test_commands_are_those_of_the_readme() -> None:
    commands = "    $ python3 testproject\n    $ python3 tests\n"
    assert commands in TEXT
    assert commands in (ROOT / "README.rst").read_text()


def test_files_beside_the_package_are_in_the_text() -> None:
    for name in ("tests/contract", "tests/support", "benchmarks", "testproject", "docs"):
        assert f"``{name}/``" in TEXT
