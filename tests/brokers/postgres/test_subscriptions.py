"""Groups beside other programs, and in databases of any encoding."""

from __future__ import annotations

import pytest

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
