"""Nodes that count each other, and wait for each other after an outage."""

from __future__ import annotations

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres import layer as postgres_layer
from django_anyio_channels.brokers.postgres.payloads import lock_key, nodes_channel
from django_anyio_channels.core.exceptions import ChannelLayerError
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio


async def test_it_counts_the_nodes_that_listen(database: brokers.Postgres, connect: Connect) -> None:
    one, two = await connect(database.url), await connect(database.url)
    assert await one.count_subscribers("g") == 0
    for layer in (one, two):
        await layer.subscribe("g")
    assert await one.count_subscribers("g") == 2
    await two.unsubscribe("g")
    assert await one.count_subscribers("g") == 1


async def test_groups_work_without_the_right_to_count(
    database: brokers.Postgres, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"role_{database.database}"
    database.ask(f"REVOKE SELECT ON pg_catalog.pg_locks FROM PUBLIC; CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    layer = await connect(database.url, user=role, password=role)
    with anyio.fail_after(30):
        await layer.subscribe("g")
        while "nodes cannot be counted" not in caplog.text:
            await anyio.sleep(0.01)
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
    with pytest.raises(ChannelLayerError, match="permission denied for view pg_locks"):
        await layer.count_subscribers("g")
    await layer.disconnect()
    database.ask(f"DROP ROLE {role}")


async def test_after_a_restart_the_nodes_of_another_prefix_are_not_waited_for(
    own_server: brokers.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_layer, "PEER_TIMEOUT", 1000.0)
    layers = {prefix: PostgreSQLChannelLayer(own_server.url) for prefix in ("theirs", "ours")}
    for prefix, layer in layers.items():
        layer.set_scope(prefix)
    with anyio.fail_after(30):
        await layers["theirs"].connect()
        await layers["theirs"].subscribe("g")
        await announced(own_server, "theirs")
        async with Channel(layers["ours"]) as channel, channel.subscribe("g") as subscriber:
            await announced(own_server, "ours")
            await channel.publish("g", "before")
            await run_sync(own_server.server.restart)
            while channel.outages == 0:
                await anyio.sleep(0.01)
            await channel.publish("g", "after")
            assert [(await anext(subscriber)).message for _ in range(2)] == ["before", "after"]
        await layers["theirs"].disconnect()


async def announced(server: brokers.Postgres, prefix: str) -> None:
    key = lock_key(nodes_channel(prefix))
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = %s"
    while await run_sync(server.ask, query, key) != [(1,)]:
        await anyio.sleep(0.01)
