"""What docs/brokers/postgresql.rst says of settings is what the sources do."""

from __future__ import annotations

import inspect
import re

import docutils.nodes

from django_anyio_channels import CreateChannelTables, PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres import parameters
from django_anyio_channels.django.configuration import databases
from django_anyio_channels.django.configuration.config import read_config

from .pages import page

PAGE = page("docs/brokers/postgresql.rst")


def test_every_option_that_takes_effect_is_documented() -> None:
    documented = {"role" if name == "assume_role" else name for name in PAGE.words("options")}
    assert documented == parameters._READ_BY_ASYNCPG | parameters._SERVER_SETTINGS | {"connect_timeout"}
    assert PAGE.words("taken") == {"HOST", "PORT", "USER", "PASSWORD", "NAME"}


def test_the_layers_own_options_are_documented_with_their_defaults() -> None:
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(PostgreSQLChannelLayer).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert PAGE.words("own") == {*own, "server_settings"}
    assert re.search(rf"probe_interval\s+{own['probe_interval']}\s", PAGE.document.astext())


def test_what_is_ignored_is_ignored() -> None:
    [sentence] = [
        each.astext() for each in PAGE.document.findall(docutils.nodes.paragraph) if "are ignored" in each.astext()
    ]
    assert "prepare_threshold" in sentence
    assert "prepare_threshold" in databases._OF_PSYCOPG
    assert "keepalives" in parameters._IGNORED
    assert "require" not in parameters._WITHOUT_EFFECT["channel_binding"]


def test_the_settings_with_a_history_are_taken() -> None:
    config = PAGE.run("history")["CHANNEL_LAYERS"]["default"]["CONFIG"]
    del config["database"]
    [layer] = read_config({**config, "url": "postgresql://localhost"}).make_layers()
    assert layer.retention == config["options"]["history_age"]


def test_the_migration_can_be_made() -> None:
    [operation] = PAGE.run("migration")["Migration"].operations
    assert isinstance(operation, CreateChannelTables)
    assert operation.roles == ["chat"]
