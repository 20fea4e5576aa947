"""Idempotency keys in a table: rights, owners, a table that vanishes, and connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from django_anyio_channels import AnyioChannelLayer, ListenerClosed, NotSupported, PublishRefused, QueueFull
from django_anyio_channels.brokers.postgres import idempotency
from django_anyio_channels.brokers.postgres.payloads import encode_entry
from django_anyio_channels.brokers.postgres.tables import KEYS, Tables
from django_anyio_channels.core.exceptions import ChannelLayerError
from tests.contract.processes import n, numbers, soon
from tests.support.brokers import postgres as brokers

from .conftest import Connect
from .test_tables import Role, role

__all__ = ["role"]

pytestmark = pytest.mark.anyio

TABLE = "django_anyio_channels_sent"
COUNT = f"SELECT count(*) FROM {TABLE}"


@pytest.mark.parametrize(
    "kept", [{}, {"options": {"history_length": 1000}, "acknowledged": ["jobs"]}], ids=["plain", "kept"]
)
async def test_each_message_arrives_once_over_connections_that_break(
    database: brokers.Postgres, kept: dict[str, Any]
) -> None:
    receiver, sender = (AnyioChannelLayer(url=database.url, capacity=1000, **kept) for _ in range(2))
    channel = await soon(receiver.new_channel())
    await soon(receiver.group_add("g", channel))

    def break_connections() -> None:
        for node in sender._dispatcher.nodes:
            with suppress(ListenerClosed):  # it is broken already
                for process in node.channel.layer.processes.values():  # type: ignore[attr-defined]
                    database.ask("SELECT pg_terminate_backend(%s)", process)

    await soon(sender.group_send("g", n(-1)))
    await soon(sender.send("jobs", n(-1), idempotency_key="first"))
    for number in range(30):
        key = str(number)
        sending = [
            sender.group_send("g", n(number), idempotency_key=key),
            sender.send("jobs", n(number), idempotency_key=key),
        ]
        breaking = [asyncio.to_thread(break_connections)] if number % 6 == 0 else []
        await soon(asyncio.gather(*sending, *breaking))
    assert await numbers(receiver, channel, 31) == list(range(-1, 30))
    assert await numbers(receiver, "jobs", 31) == list(range(-1, 30))
    assert sender.statistics()["outages"] >= 3
    if kept:
        first = await soon(sender.group_send("g", n(30), idempotency_key="last"))
        assert await soon(receiver.group_send("g", n(30), idempotency_key="last")) == first is not None
        assert [event.message["n"] for event in await soon(receiver.group_history("g"))] == list(range(-1, 31))
    for layer in (receiver, sender):
        await layer.close()


async def test_the_second_call_returns_the_position_of_the_first(database: brokers.Postgres, connect: Connect) -> None:
    """Also one that waits for the first to commit, at another node."""
    layers = [await connect(database.url, history_length=10) for _ in range(2)]
    layers[0].disable_history("unkept")
    await layers[0].subscribe("g")
    await layers[0].bind("g", "jobs", capacity=10, expiry=60.0, lifetime=60.0)
    calls = [layer.publish_once("g", b"once", key="k", seconds=60.0) for layer in layers * 5]
    results = await asyncio.gather(*calls)
    other = await layers[1].publish_once("g", b"other", key="l", seconds=0.0)
    again = await layers[1].publish_once("g", b"other", key="l", seconds=0.0)
    kept = await layers[0].history("g", since=None, limit=None)
    assert [event.message for event in kept] == [b"once", b"other", b"other"]
    assert [{result.position for result in results}, {other.position}, {again.position}] == [
        {event.position} for event in kept
    ]
    assert {bound.queue for result in results for bound in result.bound_queues} == {"jobs"}
    live = [await layers[0].next_published() for _ in range(3)]
    assert [(event.message, event.position) for event in live] == [(event.message, event.position) for event in kept]
    for _ in range(2):
        unkept = await layers[0].publish_once("unkept", b"x", key="k", seconds=60.0)
        assert unkept.position is None
    now = database.ask("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0]
    assert again.position is not None
    assert now - 60 < layers[0].published_at(again.position) <= now


async def test_a_message_and_the_bound_queues_of_another_share_a_transaction(
    database: brokers.Postgres, connect: Connect
) -> None:
    layer = await connect(database.url, history_length=10)
    await layer.bind("g", "jobs", capacity=10, expiry=60.0, lifetime=60.0)
    publisher = layer._require_session().publisher
    payload = encode_entry(b"x", server_encoding="UTF8")
    asked, published = await publisher._flush([("g", None, []), ("h", "h", [payload])])
    assert (asked.position, [bound.queue for bound in asked.bound_queues]) == (None, ["jobs"])
    assert published.position == (await layer.history("h", since=None, limit=None))[0].position


async def test_acknowledged_queues_keep_what_is_put_once(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer._require_session().keys.sweep()  # there is no table yet
    await layer.purge("jobs")
    layer.set_acknowledged(lambda queue: queue == "jobs")
    for _ in range(2):
        await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="k", seconds=60.0)
    with pytest.raises(QueueFull):
        await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="l", seconds=60.0)
    assert database.ask("SELECT message FROM django_anyio_channels_job") == [(b"x",)]
    assert database.ask("SELECT message FROM django_anyio_channels_queue") == []
    await layer.purge("jobs")
    assert database.ask(COUNT) == [(0,)]


async def test_keys_expire_and_are_swept(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_SWEEP_INTERVAL", 0.01)
    layer = await connect(database.url)
    await layer.subscribe("g")
    for _ in range(2):
        await layer.publish_once("g", b"x", key="short", seconds=0.0)
    await layer.publish_once("g", b"y", key="long", seconds=60.0)
    assert [(await layer.next_published()).message for _ in range(3)] == [b"x", b"x", b"y"]
    with anyio.fail_after(30):
        while database.ask(COUNT) != [(1,)]:
            await anyio.sleep(0.01)


async def test_a_table_that_was_dropped_is_made_again(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    for _ in range(2):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
        database.ask(f"DROP TABLE {TABLE}")
    await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="a", seconds=60.0)
    assert database.ask(COUNT) == [(1,)]
    database.ask(f"DROP TABLE {TABLE}")
    await layer.put_once("jobs", b"x", capacity=2, expiry=60.0, key="b", seconds=60.0)
    with pytest.raises(ChannelLayerError, match="Queue jobs is full"):
        await layer.put_once("jobs", b"x", capacity=2, expiry=60.0, key="c", seconds=60.0)


async def test_a_table_that_is_dropped_again_and_again_is_an_error(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(database.url)
    keys = layer._require_session().keys

    async def elsewhere() -> Tables:
        return KEYS.find(("nowhere", True, None, None, "postgres"))

    for tables in (keys._keys, keys._queues):
        monkeypatch.setattr(tables, "require", elsewhere)
    with pytest.raises(PublishRefused, match="nowhere"):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
    database.ask(f"DROP TABLE IF EXISTS {TABLE}")
    with pytest.raises(ChannelLayerError, match=TABLE):
        await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="a", seconds=60.0)
    monkeypatch.undo()
    with pytest.raises(PublishRefused, match="out of range"):
        await layer.publish_once("g", b"x", key="k", seconds=1e300)
    await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="a", seconds=60.0)
    with pytest.raises(ChannelLayerError, match="out of range"):
        await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="b", seconds=1e300)


async def test_the_error_names_the_rights_that_are_missing(
    database: brokers.Postgres, connect: Connect, role: Callable[[], Role]
) -> None:
    one = role()
    database.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    layer = await connect(one.url)
    with pytest.raises(NotSupported, match="Have the owner of the schema or of the database run this") as caught:
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
    script = str(caught.value).partition("run this:\n")[2]
    database.ask(script)
    await layer.publish_once("g", b"x", key="k", seconds=60.0)
    assert database.ask(COUNT) == [(1,)]
    database.ask(f"REVOKE ALL ON {TABLE} FROM {one.name}")
    with pytest.raises(NotSupported, match=r"(?s)permission denied.*keys need these rights.*GRANT SELECT, INSERT"):
        await layer.publish_once("g", b"x", key="l", seconds=60.0)
    with pytest.raises(ChannelLayerError, match="permission denied"):
        await layer._require_session().keys.purge(b"g")


async def test_a_table_of_another_role_is_not_used(
    database: brokers.Postgres, connect: Connect, role: Callable[[], Role]
) -> None:
    one, other = role(), role()
    database.ask("GRANT CREATE ON SCHEMA public TO PUBLIC")
    other.run(f"CREATE TABLE {TABLE} (place bytea, key bytea, expires timestamptz, PRIMARY KEY (place, key))")
    layer = await connect(one.url)
    with pytest.raises(NotSupported, match=f": {TABLE} in the schema public belongs to {other.name}"):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
