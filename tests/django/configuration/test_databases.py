"""`django.configuration.databases`: an alias of DATABASES as the layer's arguments, and the errors for mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.utils import ConnectionHandler

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.configuration.databases import layer_arguments
from django_anyio_channels.django.settings import ConfigError

from .test_checks import entry, found

POSTGRES = "django.db.backends.postgresql"
Alias = Callable[..., dict[str, Any]]


@pytest.fixture
def alias(monkeypatch: pytest.MonkeyPatch) -> Alias:
    """Puts an alias into DATABASES, and returns the layer's arguments for it."""

    def put(name: str = "chat", /, *, options: dict[str, Any] | None = None, **entry: Any) -> dict[str, Any]:
        entry = {"ENGINE": POSTGRES, "NAME": "shop", **entry}
        settings = ConnectionHandler({"default": {}, name: entry}).settings[name]
        monkeypatch.setitem(connections.settings, name, settings)
        return layer_arguments(name, options or {})

    return put


def test_parameters_of_libpq_become_a_url_without_the_password(alias: Alias) -> None:
    options = {"sslmode": "verify-full", "sslrootcert": "/a b/ca.crt", "sslcert": None, "assume_role": "clerk"}
    arguments = alias(HOST="db.example", PORT="6543", USER="ana", PASSWORD="a b/c", CONN_MAX_AGE=60, OPTIONS=options)
    assert arguments.pop("credentials")
    assert arguments == {
        "url": "postgresql://?dbname=shop&host=db.example&port=6543&role=clerk&sslmode=verify-full"
        "&sslrootcert=%2Fa+b%2Fca.crt&user=ana",
        "password": "a b/c",
    }


def test_several_hosts_and_a_socket(alias: Alias) -> None:
    for host, address in (("/run/postgresql", "%2Frun%2Fpostgresql:2"), ("a,b", "a:2,b:2")):
        layer = PostgreSQLChannelLayer(**alias(HOST=host, PORT="2"))
        assert layer.address == f"postgresql://{address}/shop"


def test_parameters_of_psycopg_and_django_are_ignored(alias: Alias) -> None:
    options = {"server_side_binding": True, "isolation_level": 2, "pool": False, "prepare_threshold": 5}
    arguments = alias(OPTIONS=options, CONN_HEALTH_CHECKS=True)
    assert arguments["url"] == "postgresql://?dbname=shop"


def test_the_layers_own_options_are_added(alias: Alias) -> None:
    options = {"probe_interval": 3.0, "timeout": 1.0, "server_settings": {"work_mem": "1MB"}}
    assert options.items() <= alias(options=options, OPTIONS={"connect_timeout": 9}).items()


def test_the_backend_is_asked_again_for_the_user_and_the_password(
    alias: Alias, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a backend that fetches a password which expires."""
    tokens = iter(["first", "second", "third"])
    credentials = alias(USER="ana", PASSWORD="old")["credentials"]
    parameters = DatabaseWrapper.get_connection_params
    monkeypatch.setattr(
        DatabaseWrapper, "get_connection_params", lambda self: {**parameters(self), "password": next(tokens)}
    )
    assert [asyncio.run(credentials()) for _ in range(2)] == [("ana", "first"), ("ana", "second")]


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"OPTIONS": {"channel_binding": "require"}},
            "DATABASES['chat'] cannot be used: postgresql:///shop has channel_binding=require, which asyncpg cannot do",
            "set 'url' instead",
        ),
        ({"OPTIONS": {"sslmod": "require"}}, "unknown option 'sslmod'. Did you mean 'sslmode'?", "Remove it if"),
        ({"ENGINE": "django.db.backends.sqlite3"}, "['ENGINE'] is 'django.db.backends.sqlite3'", "Name an alias whose"),
        ({"ENGINE": "no.such.engine"}, "'no.such.engine' isn't an available database backend", "Correct DATABASES["),
        ({"NAME": ""}, "Please supply the NAME", "Correct DATABASES['chat']"),
        ({"options": {"host": "x"}}, "'database' and 'options' with 'host', which contradict", "or 'url' instead"),
    ],
)
def test_parameters_that_cannot_be_used(alias: Alias, changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        alias(**changes)
        read_config({"database": "chat"})
    assert message in str(refused.value)
    assert hint in refused.value.hint
    assert refused.value.code == "E008"


def test_an_unknown_alias_has_the_nearest_or_all_as_its_hint(alias: Alias) -> None:
    alias("orders")
    known = "The aliases are default, orders. A URL belongs under 'url'."
    for name, hint in (("order", "Did you mean 'orders'?"), ("postgresql://u:secret@h", known)):
        with pytest.raises(ConfigError, match=r"CONFIG\['database'\] is not an alias") as refused:
            read_config({"database": name})
        assert (refused.value.hint, refused.value.code) == (hint, "E008")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message", "code"),
    [
        ({"database": 7}, "CONFIG['database'] has an invalid value (int)", "E005"),
        ({"database": "chat", "url": "memory://"}, "both 'url' and 'database'", "E002"),
        ({"database": "chat", "layer": "x.Y"}, "both 'layer' and 'database'", "E002"),
        ({"database": "chat", "options": {"speed": 1}}, "has no option 'speed'", "E003"),
    ],
)
def test_config_that_contradicts_itself(alias: Alias, config: dict[str, Any], message: str, code: str) -> None:
    alias()
    with pytest.raises(ConfigError) as refused:
        read_config(config)
    assert message in refused.value.message
    assert refused.value.code == code


def test_databases_is_read_again_for_each_layer(alias: Alias) -> None:
    alias(HOST="db")
    settings = read_config({"database": "chat"})
    assert settings.make_layers()[0].address == "postgresql://db/shop"
    connections.settings["chat"]["NAME"] = "test_shop"  # what Django's test runner does
    assert settings.make_layers()[0].address == "postgresql://db/test_shop"


def test_the_system_check_has_an_id_of_its_own() -> None:
    [(number, message, hint)] = found({"default": entry(database="default")})
    assert number == "anyio_channels.E008"
    assert message.startswith("CHANNEL_LAYERS['default']: CONFIG['database'] is 'default', but DATABASES['default']")
    assert "django.db.backends.postgresql" in hint


def test_two_layers_in_one_database_need_two_prefixes(alias: Alias) -> None:
    alias()
    [(number, _, _)] = found({"default": entry(database="chat"), "other": entry(database="chat", prefix="asgi")})
    assert number == "anyio_channels.W004"
    assert found({"default": entry(database="chat"), "other": entry(database="chat", prefix="other")}) == []
