"""The records of presence in a table: what becomes of those whose time is over, and of those that are purged."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels.brokers.postgres import presence
from django_anyio_channels.core.capabilities import PresenceRecord
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio

NAMES = "SELECT name FROM django_anyio_channels_presence ORDER BY name"


async def test_records_expire_and_are_swept(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_SWEEP_INTERVAL", 0.01)
    layer = await connect(database.url)
    await layer.put_presence([PresenceRecord("old", "n", b"x")], 0.0)
    await layer.put_presence([PresenceRecord("new", "n", b"x")], 60.0)
    with anyio.fail_after(30):
        while database.ask(NAMES) != [(b"new",)]:
            await anyio.sleep(0.01)
    assert await layer.read_presence("old") == {}
    assert await layer.read_presence("new") == {"n": b"x"}


async def test_who_does_not_use_presence_has_no_table_of_it(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer._require_session().presence.sweep()
    await layer.purge("a")
    assert database.ask("SELECT to_regclass('django_anyio_channels_presence')") == [(None,)]
    other = await connect(database.url)
    await other.put_presence([PresenceRecord(name, "n", b"x") for name in ("a.1", "a.2", "b")], 60.0)
    await layer.purge("a")
    assert database.ask(NAMES) == [(b"b",)]
