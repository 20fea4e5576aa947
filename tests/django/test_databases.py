"""`django.databases`: an alias of DATABASES as the PostgreSQL layer's arguments, and the errors for mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.db.utils import ConnectionHandler

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.django.config import read_config
from django_anyio_channels.django.databases import layer_arguments
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


def test_the_address_and_the_user(alias: Alias) -> None:
    arguments = alias(
        HOST="db.example", PORT="6543", USER="ana", PASSWORD="a b/c", CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True
    )
    assert arguments == {
        "host": "db.example",
        "port": "6543",
        "user": "ana",
        "password": "a b/c",
        "database": "shop",
        "server_settings": {},
    }
    assert PostgreSQLChannelLayer(**arguments).address == "postgresql://db.example:6543/shop"


def test_a_socket_and_several_hosts(alias: Alias) -> None:
    assert alias(HOST="/run/postgresql")["host"] == "/run/postgresql"
    several = alias(HOST="a,b", PORT="1,2", OPTIONS={"target_session_attrs": "read-write"})
    assert (several["host"], several["port"]) == (["a", "b"], ["1", "2"])
    assert several["url"] == "postgresql://?target_session_attrs=read-write"


def test_parameters_of_libpq_go_into_the_url(alias: Alias) -> None:
    arguments = alias(
        OPTIONS={"sslmode": "verify-full", "sslrootcert": "/a b/ca.crt", "sslcert": None, "passfile": "/p"}
    )
    assert arguments["url"] == "postgresql://?passfile=%2Fp&sslmode=verify-full&sslrootcert=%2Fa+b%2Fca.crt"
    arguments = alias(NAME="", OPTIONS={"service": "shop"})
    assert arguments == {"url": "postgresql://?service=shop", "server_settings": {}}


def test_parameters_of_the_server_go_to_the_server(alias: Alias) -> None:
    options = {"options": "-c search_path=chat", "application_name": "shop", "assume_role": "clerk"}
    assert alias(OPTIONS=options)["server_settings"] == {
        "options": "-c search_path=chat",
        "application_name": "shop",
        "role": "clerk",
    }


def test_the_connect_timeout(alias: Alias) -> None:
    assert alias(OPTIONS={"connect_timeout": 3})["timeout"] == 3.0
    assert alias(OPTIONS={"connect_timeout": "7"})["timeout"] == 7.0
    assert "timeout" not in alias(OPTIONS={"connect_timeout": 0})  # endless for libpq


def test_parameters_of_psycopg_and_django_are_ignored(alias: Alias) -> None:
    options = {
        "server_side_binding": True,
        "isolation_level": 2,
        "pool": False,
        "prepare_threshold": 5,
        "keepalives_idle": 30,
        "tcp_user_timeout": 1000,
        "channel_binding": "prefer",
        "gssencmode": "disable",
    }
    assert alias(OPTIONS=options) == {"database": "shop", "server_settings": {}}


def test_the_layers_own_options_override(alias: Alias) -> None:
    options = {
        "probe_interval": 3.0,
        "timeout": 1.0,
        "server_settings": {"application_name": "layer", "work_mem": "1MB"},
    }
    arguments = alias(options=options, OPTIONS={"connect_timeout": 9, "application_name": "shop"})
    assert (arguments["probe_interval"], arguments["timeout"]) == (3.0, 1.0)
    assert arguments["server_settings"] == {"application_name": "layer", "work_mem": "1MB"}


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"OPTIONS": {"channel_binding": "require"}},
            "['OPTIONS'] has 'channel_binding', which asyncpg does not support",
            "'url' of its own",
        ),
        ({"OPTIONS": {"sslmod": "require"}}, "DATABASES['chat']['OPTIONS'] has 'sslmod'", "Remove it if"),
        ({"ENGINE": "django.db.backends.sqlite3"}, "['ENGINE'] is 'django.db.backends.sqlite3'", "Name an alias whose"),
        ({"ENGINE": "no.such.engine"}, "'no.such.engine' isn't an available database backend", "Correct DATABASES["),
        ({"NAME": ""}, "Please supply the NAME", "Correct DATABASES['chat']"),
        ({"options": {"host": "x"}}, "'database' and 'options' with 'host', which contradict", "or 'url' instead"),
    ],
)
def test_parameters_that_cannot_be_used(alias: Alias, changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        alias(**changes)
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
