"""Tables by a migration: a layer whose role may create nothing finds all that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from django.apps import apps
from django.db import connections, router
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import OperationWriter
from django.db.utils import ConnectionHandler

from django_anyio_channels import CreateChannelTables, NotSupported, PostgreSQLChannelLayer
from django_anyio_channels.core.capabilities import PresenceRecord
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running

ROLE = 'the "chat" role'
TABLES = "SELECT relname FROM pg_class WHERE relname ~ '^django_anyio_channels' AND relkind = 'r'"
FUNCTIONS = "SELECT proname FROM pg_proc WHERE proname ~ '^django_anyio_channels'"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[brokers.Postgres]:
    """A server whose database is the alias ``migrated``, with a role that may do little."""
    monkeypatch.setattr(apps, "ready", True)  # Django warns of whoever uses the database too early
    made = brokers.plain()
    with running(made.server):
        made.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        made.ask("""CREATE ROLE "the ""chat"" role" LOGIN PASSWORD 'secret'""")
        settings = ConnectionHandler({"default": made.entry, "migrated": made.entry}).settings
        monkeypatch.setitem(connections.settings, "migrated", settings["migrated"])
        yield made
        connections["migrated"].close()
        del connections["migrated"]


def run(*, forwards: bool = True, collect: bool = False) -> str:
    operation, state = CreateChannelTables([ROLE]), ProjectState()
    operation.state_forwards("chat", state)
    with connections["migrated"].schema_editor(collect_sql=collect) as editor:
        migrate: Any = operation.database_forwards if forwards else operation.database_backwards
        migrate("chat", editor, state, state)
    return "\n".join(editor.collected_sql) if collect else ""


def test_a_role_that_may_create_nothing(server: brokers.Postgres) -> None:
    printed = run(collect=True)
    assert 'GRANT USAGE ON SCHEMA "public" TO "the ""chat"" role"' in printed
    assert server.ask(TABLES) == [], "sqlmigrate changes nothing"
    run()
    run()  # what is there stays

    async def use() -> None:
        place = {**server.connection, "user": ROLE, "password": "secret"}
        layer = PostgreSQLChannelLayer(**place, history_length=10)
        await layer.connect()
        with anyio.fail_after(30):
            assert (await layer.publish("g", b"x")).position is not None
            await layer.join("g", "workers")
            await layer.put("q", b"x", capacity=1, expiry=60)
            assert (await layer.receive_job("q")).message == b"x"
            assert (await layer.publish_once("g", b"x", key="k", seconds=60)).position is not None
            await layer.put_once("q", b"y", capacity=1, expiry=60, key="k", seconds=60)
            await layer.put_presence([PresenceRecord("g", "n", b"x")], 60)
        await layer.disconnect()

    anyio.run(use)
    run(forwards=False)
    assert server.ask(TABLES) == server.ask(FUNCTIONS) == []
    server.ask(printed)
    assert len(server.ask(TABLES)) == 10


def test_where_nothing_is_done(server: brokers.Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(router, "allow_migrate", lambda alias, app_label: (alias, app_label) != ("migrated", "chat"))
        run()
    with monkeypatch.context() as patch:
        patch.setattr(connections["migrated"], "vendor", "sqlite")
        run()
    assert server.ask(TABLES) == []
    server.ask("ALTER ROLE postgres SET search_path = missing")
    connections["migrated"].close()
    with pytest.raises(NotSupported, match="names no schema"):
        run()


def test_how_it_is_written_down() -> None:
    text, imports = OperationWriter(CreateChannelTables(["chat"]), indentation=0).serialize()
    assert "roles=['chat']" in " ".join(text.split()).replace("[ ", "[").replace(", ]", "]")
    assert imports == {"import django_anyio_channels.django.migration_operations"}
    assert CreateChannelTables().describe() == "Create the tables of the channel layer"
