"""What README.rst claims is true."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata

import docutils.nodes
import pytest
from docutils.core import publish_doctree

from django_anyio_channels.django import checks, config, databases, factory, settings
from tests.support.paths import ROOT
from tests.support.programs import QUIET_ASYNCIO

FILES = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst"]


def parsed(text: str) -> docutils.nodes.document:
    """docutils raises for the slightest mistake."""
    return publish_doctree(text, settings_overrides={"report_level": 1, "halt_level": 1, "input_encoding": "unicode"})


def document(name: str) -> docutils.nodes.document:
    return parsed((ROOT / name).read_text())


README = document("README.rst")
BLOCKS = [block for block in README.findall(docutils.nodes.literal_block) if "code" in block["classes"]]
PYTHON = [block for block in BLOCKS if "python" in block["classes"]]
PROGRAMS = [block for block in PYTHON if "runs" in block["classes"]]


def rows(name: str) -> dict[str, list[str]]:
    """The rows of the README's table of this class, without the header: first cell -> the others."""
    [table] = [table for table in README.findall(docutils.nodes.table) if name in table["classes"]]
    return cells_of(table)


def cells_of(table: docutils.nodes.table) -> dict[str, list[str]]:
    [body] = table.findall(docutils.nodes.tbody)
    lines = body.findall(docutils.nodes.row)
    cells = [[entry.astext() for entry in line.findall(docutils.nodes.entry)] for line in lines]
    return {first: others for first, *others in cells}


@pytest.mark.parametrize("name", FILES)
def test_text_is_valid(name: str) -> None:
    assert document(name)["title"]


def test_links_within_the_text_lead_somewhere() -> None:
    for reference in README.findall(docutils.nodes.reference):
        assert re.fullmatch(r"https?://\S+", reference.get("refuri", "")) or reference.get("refid") in README.ids


def test_first_block_is_the_two_commands() -> None:
    assert BLOCKS[0].astext() == "$ python3 testproject\n$ python3 tests"
    for command in ("testproject", "tests"):
        assert (ROOT / command / "__main__.py").is_file()
    assert "python3 tests" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_python_compiles(block: docutils.nodes.literal_block) -> None:
    assert ast.parse(block.astext()).body


def test_the_command_installs_the_installed_apps() -> None:
    [command] = [block.astext() for block in BLOCKS if "install" in block["classes"]]
    [settings] = [block.astext() for block in PYTHON if "apps" in block["classes"]]
    first = ast.parse(settings).body[0]
    assert isinstance(first, ast.Assign)
    apps = ast.literal_eval(first.value)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named, *others = shlex.split(command)[3:]
    [extra] = re.findall(r"\[(\w+)\]", named)
    installed = {re.split("[<>=]", each)[0].lower() for each in (*extras[extra], *others, named.partition("[")[0])}
    assert {app.replace("_", "-") for app in apps} <= installed


def test_some_programs_run() -> None:
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"line {block.line}")
def test_program_prints_what_the_next_block_says(block: docutils.nodes.literal_block) -> None:
    after = BLOCKS[BLOCKS.index(block) + 1]
    assert "prints" in after["classes"]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", QUIET_ASYNCIO + block.astext()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", after.astext().strip())


def test_installed_apps_come_with_what_is_installed_before() -> None:
    command = next(block.astext() for block in BLOCKS if block.astext().startswith("$ pip install"))
    ours, *others = shlex.split(command)[3:]
    [extra] = re.findall(r"\[(\w+)\]", ours)
    required = [
        name for name in metadata.requires("django-anyio-channels") or [] if re.search(rf"extra == .{extra}", name)
    ]
    installed = {re.split(r"[^\w-]", name)[0].lower() for name in [ours, *others, *required]}
    [apps] = re.findall(r"INSTALLED_APPS = (\[.*?\])", (ROOT / "README.rst").read_text(), re.DOTALL)
    assert {app.replace("_", "-") for app in ast.literal_eval(apps)} <= installed


def test_settings_table_lists_every_key_and_no_other() -> None:
    assert sorted(rows("settings")) == sorted(config.KEYS)


def test_settings_table_documents_the_defaults() -> None:
    listed = {key: ast.literal_eval(default) for key, (default, _) in rows("settings").items() if default}
    fields = {name: field.default for name, field in settings.Settings.__dataclass_fields__.items() if name in listed}
    assert len(fields) >= 7
    assert {name: listed[name] for name in fields} == {**fields, "channel_capacity": {}, "acknowledged": []}


def test_broker_table_lists_every_scheme() -> None:
    listed = {scheme for first in rows("urls") for scheme in re.findall(r"([a-z+]+)://", first)}
    # The text says that these mean the same.
    assert listed == {scheme for scheme in factory.LAYERS if not scheme.startswith("valkey")}
    assert {scheme.replace("redis", "valkey", 1) for scheme in listed} <= set(factory.LAYERS)


def test_table_of_checks_is_the_one_that_the_checks_have() -> None:
    [table] = parsed(inspect.getdoc(checks) or "").findall(docutils.nodes.table)
    assert rows("checks") == cells_of(table)


def test_every_check_that_can_be_found_is_in_the_table() -> None:
    rooms = (config, databases, factory, settings)
    sources = inspect.getsource(checks).replace(checks.__doc__ or "", "") + "".join(map(inspect.getsource, rooms))
    assert {f"anyio_channels.{code}" for code in re.findall(r"\b[EW]00\d\b", sources)} == set(rows("checks"))
