"""What docs/postgresql.rst says of settings is what the sources do."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import docutils.nodes
import pytest

from django_anyio_channels import CreateChannelTables, PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres import parameters
from django_anyio_channels.django import databases
from django_anyio_channels.django.config import read_config
from tests.support.paths import ROOT

from .test_readme import parsed

PAGE = parsed((ROOT / "docs" / "postgresql.rst").read_text())
PYTHON = [block for block in PAGE.findall(docutils.nodes.literal_block) if "python" in block["classes"]]


def first_cells(name: str) -> list[str]:
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if name in table["classes"]]
    [body] = table.findall(docutils.nodes.tbody)
    return [next(iter(row.findall(docutils.nodes.entry))).astext() for row in body.findall(docutils.nodes.row)]


def names(name: str) -> set[str]:
    return {word for cell in first_cells(name) for word in cell.split()}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_python_compiles(block: docutils.nodes.literal_block) -> None:
    assert ast.parse(block.astext()).body


def test_every_option_that_takes_effectis_documented() -> None:
    documented = {"role" if name == "assume_role" else name for name in names("options")}
    assert documented == parameters._READ_BY_ASYNCPG | parameters._SERVER_SETTINGS | {"connect_timeout"}
    assert names("taken") == {"HOST", "PORT", "USER", "PASSWORD", "NAME"}


def test_the_layers_own_options_are_documented_with_their_defaults() -> None:
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(PostgreSQLChannelLayer).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert names("own") == {*own, "server_settings"}
    assert re.search(rf"probe_interval\s+{own['probe_interval']}\s", PAGE.astext())


def test_what_is_ignored_is_ignored() -> None:
    [sentence] = [each.astext() for each in PAGE.findall(docutils.nodes.paragraph) if "are ignored" in each.astext()]
    assert "prepare_threshold" in sentence
    assert "prepare_threshold" in databases._OF_PSYCOPG
    assert "keepalives" in parameters._IGNORED
    assert "require" not in parameters._WITHOUT_EFFECT["channel_binding"]


def run(name: str) -> dict[str, Any]:
    [block] = [block for block in PYTHON if name in block["classes"]]
    found: dict[str, Any] = {}
    exec(block.astext(), found)
    return found


def test_the_settings_with_a_history_are_taken() -> None:
    config = run("history")["CHANNEL_LAYERS"]["default"]["CONFIG"]
    del config["database"]
    [layer] = read_config({**config, "url": "postgresql://localhost"}).make_layers()
    assert layer.retention == config["options"]["history_age"]


def test_the_migration_can_be_made() -> None:
    [operation] = run("migration")["Migration"].operations
    assert isinstance(operation, CreateChannelTables)
    assert operation.roles == ["chat"]
