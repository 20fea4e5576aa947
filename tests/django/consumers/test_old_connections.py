"""`django.consumers.old_connections`: a hop to the sync thread only if Django would close or reset a connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from channels import db as channels_db
from django.apps import apps
from django.db import close_old_connections, connections
from django.db.utils import ConnectionHandler

from django_anyio_channels.django.consumers.old_connections import OldConnections, any_due

pytestmark = pytest.mark.anyio
Configure = Callable[..., None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Configures a database called ``lite``."""
    monkeypatch.setattr(apps, "ready", True)  # Django warns of queries before

    def configure(**options: Any) -> None:
        # Not in memory: such a connection is never closed.
        one = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db", **options}
        monkeypatch.setitem(connections.settings, "lite", ConnectionHandler({"default": one}).settings["default"])

    return configure


@pytest.fixture(autouse=True)
def new_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Synchronous code runs in a thread that has no connections of other tests."""
    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
        yield


def query() -> Any:
    with connections["lite"].cursor() as cursor:
        cursor.execute("SELECT 1")
    return connections["lite"]


async def forget() -> None:
    def close() -> None:
        connections["lite"].close()
        del connections["lite"]

    await sync_to_async(close)()


async def test_the_first_call_hops_and_later_ones_do_not(database: Configure) -> None:
    old = OldConnections()
    assert old.due()
    await old.close()
    assert not old.due()
    await old.close()


async def test_a_connection_that_is_closed_after_each_use_is_due_after_a_query(database: Configure) -> None:
    database(CONN_MAX_AGE=0)
    old = OldConnections()
    await old.close()
    connection = await sync_to_async(query)()
    assert old.due()
    await old.close()
    assert connection.connection is None
    assert not old.due()
    await forget()


async def test_a_connection_that_is_kept_is_not_due(database: Configure) -> None:
    database(CONN_MAX_AGE=None)
    old = OldConnections()
    await old.close()
    await sync_to_async(query)()
    assert not old.due()
    await forget()


async def test_a_connection_that_was_made_before_is_known_after_the_first_call(database: Configure) -> None:
    database(CONN_MAX_AGE=600)
    connection = await sync_to_async(query)()
    old = OldConnections()
    await old.close()
    connection.close_at = monotonic()
    assert old.due()
    await forget()


def spoil(connection: Any, what: str) -> None:
    if what == "age":
        connection.close_at = monotonic()
    elif what == "error":
        connection.errors_occurred = True
    elif what == "autocommit":
        connection.set_autocommit(False)
    else:
        connection.close_if_health_check_failed()


@pytest.mark.parametrize("what", ["age", "error", "autocommit", "health check"])
async def test_what_django_looks_at_makes_it_due(database: Configure, what: str) -> None:
    database(CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=what == "health check")
    old = OldConnections()
    await old.close()
    connection = await sync_to_async(query)()
    await old.close()
    assert not old.due()
    await sync_to_async(spoil)(connection, what)
    assert old.due()
    await old.close()
    assert not old.due()
    assert (connection.connection is None) == (what in ("age", "autocommit"))
    await forget()


async def test_connections_of_other_threads_are_theirs(database: Configure) -> None:
    database(CONN_MAX_AGE=0)
    old = OldConnections()
    await old.close()

    def use_elsewhere() -> None:
        query()
        used.set_result(threading.get_ident())
        done.wait(30)
        close_old_connections()

    used: Future[int] = Future()
    done = threading.Event()
    thread = threading.Thread(target=use_elsewhere)
    thread.start()
    assert any_due(await asyncio.wrap_future(used))
    assert not old.due()
    done.set()
    thread.join()
    assert not any_due(used.result())


async def test_what_channels_test_tools_replace_is_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep the connection of a `TestCase` open."""
    called: list[int] = []
    monkeypatch.setattr(channels_db, "close_old_connections", lambda: called.append(threading.get_ident()))
    await OldConnections().close()
    assert called == [await sync_to_async(threading.get_ident)()]
