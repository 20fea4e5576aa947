"""Groups beside other programs, and in databases of any encoding."""

from __future__ import annotations

import anyio
import asyncpg
import psycopg
import pytest

from django_anyio_channels.brokers.postgres import subscriptions
from django_anyio_channels.brokers.postgres.connection import Connection
from django_anyio_channels.brokers.postgres.payloads import lock_key
from django_anyio_channels.core.exceptions import SubscriptionRefused
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio


async def test_a_notification_of_another_program_is_dropped(
    database: brokers.Postgres, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    layer = await connect(database.url)
    await layer.subscribe("g")
    database.ask("NOTIFY g, 'hello'")
    database.ask("NOTIFY g")
    await layer.publish("g", b"ours")
    assert (await layer.next_published()).message == b"ours"
    records = [record for record in caplog.records if record.name == "django_anyio_channels"]
    assert [record.getMessage() for record in records] == [
        "Dropped a notification on channel g: another program notifies this channel too"
    ] * 2


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_every_byte_arrives_whatever_the_encoding_of_the_database(
    server: brokers.Postgres, connect: Connect, encoding: str
) -> None:
    name = f"encoded_{encoding.lower()}"
    server.ask(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    layer = await connect(brokers.Postgres(server.server, server.programs, name).url)
    group, message = "Räume", bytes(range(256)) * 100
    await layer.subscribe(group)
    await layer.publish(group, message)
    event = await layer.next_published()
    assert (event.group, event.message) == (group, message)
    await layer.put(group, message, capacity=1, expiry=60)
    assert await layer.take(group) == message


async def test_a_lock_that_another_session_holds_delays_only_that_a_node_is_counted(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriptions, "_LOCK_AGAIN_INTERVAL", 0.01)
    layer = await connect(database.url)
    with psycopg.connect(database.url) as theirs, anyio.fail_after(30):
        theirs.execute("SELECT pg_advisory_lock(%s), pg_advisory_lock(%s)", (lock_key("g"), lock_key("left")))
        for group in ("g", "left"):
            await layer.subscribe(group)
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        assert await layer.count_subscribers("g") == 0
        assert f"cannot share advisory lock {lock_key('g')}, so other nodes do not count" in caplog.text
        assert "a session holds it exclusively" in caplog.text
        await layer.unsubscribe("left")
    with anyio.fail_after(30):
        while await layer.count_subscribers("g") == 0:
            await anyio.sleep(0.01)
    assert await layer.count_subscribers("g") == 1
    assert await layer.count_subscribers("left") == 0


async def test_groups_work_without_the_right_to_locks(
    database: brokers.Postgres, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_LOCK_AGAIN_INTERVAL", 0.01)
    function, role = "pg_catalog.pg_try_advisory_lock_shared(bigint)", f"role_{database.database}"
    database.ask(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC; CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    layer = await connect(database.url, user=role, password=role)
    with anyio.fail_after(30):
        await layer.subscribe("g")
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        assert await layer.count_subscribers("g") == 0
        assert "permission denied for function pg_try_advisory_lock_shared" in caplog.text
        database.ask(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
        while await layer.count_subscribers("g") == 0:
            await anyio.sleep(0.01)
    await layer.disconnect()
    database.ask(f"DROP ROLE {role}")


async def test_a_refused_subscription_names_the_address(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(database.url)

    async def refuse(self: Connection, script: str) -> None:
        raise asyncpg.OutOfMemoryError("out of shared memory")

    monkeypatch.setattr(Connection, "execute", refuse)
    with pytest.raises(SubscriptionRefused, match=f"{layer.address}: out of shared memory"):
        await layer.subscribe("g")
