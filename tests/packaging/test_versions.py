"""The versions that the project says it supports are the same wherever it says so, and those that tox tests."""

from __future__ import annotations

import configparser
import re
import tomllib
from typing import Any

import pytest

from tests.support.paths import ROOT

DJANGO = "Framework :: Django :: "
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLDEST = PROJECT["project"]["requires-python"].removeprefix(">=")


def read(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / name)
    return parser


def claimed(prefix: str) -> set[str]:
    """The versions in the classifiers that begin so."""
    classifiers = [each.removeprefix(prefix) for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)]
    return {each for each in classifiers if "." in each}


def newest(prefix: str) -> str:
    return max(claimed(prefix), key=lambda each: tuple(map(int, each.split("."))))


def in_tox(factor: str) -> set[str]:
    """The versions in the names of tox's environments, ``py{311,312}`` and ``django{52,60}``."""
    names = read("tox.ini")["tox"]["env_list"]
    groups = re.findall(rf"(?<![a-z]){factor}(?:{{([\d,]+)}}|(\d+))", names)
    return {f"{each[0]}.{each[1:]}" for many, one in groups for each in (many or one).split(",")}


@pytest.mark.parametrize(
    ("prefix", "factor"), [("Programming Language :: Python :: ", "py"), ("Framework :: Django :: ", "django")]
)
def test_classifiers_claim_what_tox_tests(prefix: str, factor: str) -> None:
    assert claimed(prefix) == in_tox(factor)
    assert len(claimed(prefix)) >= 3


def test_oldest_python_is_the_same_everywhere() -> None:
    packed = OLDEST.replace(".", "")
    assert (
        min(claimed("Programming Language :: Python :: "), key=lambda each: tuple(map(int, each.split(".")))) == OLDEST
    )
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{packed}"
    assert read("setup.cfg")["mypy"]["python_version"] == OLDEST
    assert read("tox.ini")["testenv:lowest"]["base_python"] == f"py{packed}"
    bootstrap = (ROOT / ".ci/bootstrap.py").read_text()
    assert f"version_info < ({OLDEST.replace('.', ', ')})" in bootstrap
    assert f"Python {OLDEST} or newer" in bootstrap
    readme = (ROOT / "README.rst").read_text()
    assert f"Python {OLDEST} or newer" in readme
    versions = (ROOT / "docs/policies/versions.rst").read_text()
    assert f"Python {OLDEST} to {newest('Programming Language :: Python :: ')}\n" in versions
    assert f"Django {min(claimed(DJANGO))} to {newest(DJANGO)}\n" in versions


def test_oldest_django_and_channels_are_what_is_tested() -> None:
    django, channels = PROJECT["project"]["optional-dependencies"]["django"]
    assert django == f"Django>={min(claimed('Framework :: Django :: '))}"
    assert channels.split(",")[0] in read("tox.ini")["testenv"]["deps"]


def test_folders_that_tox_names_exist() -> None:
    for section in read("tox.ini").values():
        for path in re.findall(r"\btests/[\w/]+", "\n".join(section.values())):
            assert (ROOT / path).exists(), path
