"""Where a database is and how to log in to it: `django_anyio_channels.brokers.postgres.address`."""

from __future__ import annotations

from typing import Any

import pytest

from django_anyio_channels import ListenerClosed, PostgreSQLChannelLayer
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pasword": "x"}, "no option 'pasword'. Did you mean 'password'"),
        ({"probe_intervall": 1}, "no option 'probe_intervall'. Did you mean 'probe_interval'"),
        ({"statement_cache_size": 1}, "no option 'statement_cache_size'"),
        ({"xyz": 1}, "no option 'xyz'. Its options are database, "),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        PostgreSQLChannelLayer("postgresql://localhost", **options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://user:secret@localhost", r"'redis://localhost' is not a PostgreSQL URL; one is postgresql://user"),
        ("postgresql://u:secret@h/d?sslmod=require", "postgresql://h/d has an unknown option 'sslmod'.*'sslmode'"),
        ("postgresql://h/d?xyz=1", "unknown option 'xyz'. Settings of the server go into server_settings"),
    ],
)
def test_a_wrong_url_is_refused_without_telling_its_secrets(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PostgreSQLChannelLayer(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "address"),
    [
        ("postgresql://u:secret@h:5433/d?sslmode=require", {}, "postgresql://h:5433/d"),
        ("postgres://u@h", {"port": 5433, "database": "d", "password": "secret"}, "postgresql://h:5433/d"),
        (None, {"host": ["a", "b"], "database": "d"}, "postgresql://a,b/d"),
        (None, {"host": "/run/postgresql", "database": "d"}, "postgresql://%2Frun%2Fpostgresql/d"),
        ("postgresql:///d?host=h&port=5433", {}, "postgresql://h:5433/d"),
        (None, {}, "postgresql:///"),
    ],
)
def test_the_address_has_no_secrets(url: str | None, options: dict[str, Any], address: str) -> None:
    assert PostgreSQLChannelLayer(url, **options).address == address


async def test_asyncpgs_own_arguments_do_instead_of_a_url(database: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**database.connection, server_settings={"application_name": "mine"})
    await layer.connect()
    await layer.subscribe("g")
    await layer.publish("g", b"x")
    assert (await layer.next_published()).message == b"x"
    names = database.ask("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
    assert names.count(("mine",)) == 2
    await layer.disconnect()


async def test_a_wrong_password_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "password": "wrong"})
    with pytest.raises(
        ListenerClosed, match=r"authentication failed.*Correct the user name and the password"
    ) as caught:
        await layer.connect()
    assert layer.address in str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_a_missing_database_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "database": "missing"})
    with pytest.raises(ListenerClosed, match=r'"missing" does not exist.*Create the database'):
        await layer.connect()


async def test_tls_that_the_server_requires() -> None:
    protected = brokers.protected()
    with running(protected.server):
        with pytest.raises(ListenerClosed, match=r"The server wants TLS: add \?sslmode=require"):
            await PostgreSQLChannelLayer(protected.url + "?sslmode=disable").connect()
        authority = protected.server.folder / "ca.crt"
        layer = PostgreSQLChannelLayer(f"{protected.url}?sslmode=verify-full&sslrootcert={authority}")
        await layer.connect()
        await layer.subscribe("g")
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        await layer.disconnect()


async def test_a_full_server_is_named() -> None:
    small = brokers.plain("max_connections=6", "superuser_reserved_connections=0", "reserved_connections=0")
    with running(small.server):
        layers = [PostgreSQLChannelLayer(small.url) for _ in range(4)]
        for layer in layers[:3]:
            await layer.connect()
        with pytest.raises(ListenerClosed, match=r"too many clients.*two connections: raise the server's max_conn"):
            await layers[3].connect()
        await layers[0].disconnect()
        await layers[3].connect()
        for layer in layers[1:]:
            await layer.disconnect()
