"""What DATABASES says takes effect on a real server: sockets, TLS, files of libpq, schemas, roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.utils import ConnectionHandler

from django_anyio_channels import ListenerClosed, PostgreSQLChannelLayer
from django_anyio_channels.django.configuration.databases import layer_arguments
from tests.support.brokers import postgres as brokers
from tests.support.brokers.postgres import PASSWORD, USER, Postgres
from tests.support.brokers.server import running

pytestmark = pytest.mark.anyio

Make = Callable[..., PostgreSQLChannelLayer]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One server for the tests of this file."""
    made = brokers.plain()
    with running(made.server):
        yield made


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the layer of an entry in DATABASES."""

    def layer(database: Postgres, **changes: Any) -> PostgreSQLChannelLayer:
        entry = {**database.entry, **changes}
        monkeypatch.setitem(connections.settings, "chat", ConnectionHandler({"default": entry}).settings["default"])
        return PostgreSQLChannelLayer(**layer_arguments("chat", {}))

    return layer


def sessions(database: Postgres, columns: str) -> list[tuple[Any, ...]]:
    """What the server knows of the layer's connections."""
    return database.ask(
        f"SELECT DISTINCT {columns} FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
        f"WHERE datname = '{database.database}' AND pid <> pg_backend_pid()"
    )


@contextmanager
def secrets(tmp_path: Path, name: str, text: str) -> Iterator[str]:
    file = tmp_path / name
    file.write_text(text)
    file.chmod(0o600)
    yield str(file)


async def test_a_folder_of_sockets(database: Postgres, make: Make) -> None:
    layer = make(database, HOST=str(database.server.folder))
    await layer.connect()
    assert sessions(database, "client_addr IS NULL, application_name") == [(True, "django-anyio-channels")]
    await layer.disconnect()


async def test_a_file_of_passwords_and_one_of_services(
    database: Postgres, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, name = database.server.port, database.database
    with (
        secrets(tmp_path, "pgpass", f"127.0.0.1:{port}:{name}:{USER}:{PASSWORD}\n") as passfile,
        secrets(tmp_path, "services", f"[chat]\nhost=127.0.0.1\nport={port}\nuser={USER}\ndbname={name}\n") as services,
    ):
        monkeypatch.setenv("PGSERVICEFILE", services)
        nothing = dict.fromkeys(("HOST", "PORT", "USER", "PASSWORD", "NAME"), "")
        layer = make(database, **nothing, OPTIONS={"service": "chat", "passfile": passfile})
        await layer.connect()
        assert sessions(database, "usename") == [(USER,)]
        await layer.disconnect()


async def test_schema_role_and_name(database: Postgres, make: Make) -> None:
    database.ask("DROP ROLE IF EXISTS clerk")
    database.ask("CREATE ROLE clerk")
    database.ask("CREATE SCHEMA chat AUTHORIZATION clerk")
    options = {"options": "-c search_path=chat", "application_name": "shop", "assume_role": "clerk"}
    layer = make(database, OPTIONS=options)
    await layer.connect()
    assert sessions(database, "application_name") == [("shop",)]
    await layer.put("queue", b"", capacity=1, expiry=60)
    tables = database.ask("SELECT DISTINCT schemaname, tableowner FROM pg_tables WHERE tablename LIKE 'django_anyio%'")
    assert tables == [("chat", "clerk")]
    await layer.disconnect()


async def test_a_password_that_expires(database: Postgres, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of Django fetches one for each connection, as those for RDS IAM and Microsoft Entra do."""
    database.ask("DROP ROLE IF EXISTS token")
    database.ask("CREATE ROLE token LOGIN PASSWORD 'first'")
    layer = make(database, USER="token", PASSWORD="expired")
    parameters = DatabaseWrapper.get_connection_params
    for password in ("first", "second"):
        database.ask(f"ALTER ROLE token PASSWORD '{password}'")
        monkeypatch.setattr(
            DatabaseWrapper,
            "get_connection_params",
            lambda self, password=password: {**parameters(self), "password": password},
        )
        await layer.connect()
        assert sessions(database, "usename") == [("token",)]
    await layer.disconnect()


async def test_tls_that_looks_at_the_certificate(make: Make) -> None:
    server = brokers.protected()
    with running(server.server):
        authority = str(server.server.folder / "ca.crt")
        layer = make(server, OPTIONS={"sslmode": "verify-ca", "sslrootcert": authority})
        await layer.connect()
        assert sessions(server, "ssl") == [(True,)]
        await layer.disconnect()
        layer = make(server, OPTIONS={"sslmode": "disable"})
        with pytest.raises(ListenerClosed, match="The server requires TLS"):
            await layer.connect()
