"""Histories: the order of the commits, what goes with a transaction, what is pruned, and what other programs send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import anyio
import psycopg
import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres import statements as sql
from django_anyio_channels.brokers.postgres.payloads import channel_name, decode_entry, encode_entry
from django_anyio_channels.core.capabilities import QueryGenerator
from django_anyio_channels.core.events import Event, Gap, PublishResult
from django_anyio_channels.core.exceptions import ChannelLayerError, DecodeError, NotSupported, PositionLost
from django_anyio_channels.django.transactions import _name_parameters
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio

TIME_LIMIT = 30


class Transaction:
    """An open transaction of another program, in which the layer's statements run as Django's would run them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def run(self, statements: QueryGenerator[Any]) -> Any:
        rows: Any = None
        while True:
            try:
                statement, parameters = next(statements) if rows is None else statements.send(rows)
            except StopIteration as end:
                return end.value
            named = {f"p{number}": value for number, value in enumerate(parameters, 1)}
            rows = self._connection.execute(_name_parameters(statement).encode(), named).fetchall()

    def publish(self, layer: PostgreSQLChannelLayer, group: str, message: bytes) -> PublishResult | None:
        result: PublishResult | None = self.run(layer.publish_in_transaction(group, message, encoding="UTF8"))
        return result

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())


@contextmanager
def transaction(database: brokers.Postgres) -> Iterator[Transaction]:
    with psycopg.connect(database.url) as connection:
        yield Transaction(connection)
        connection.rollback()


async def soon(call: Awaitable[Any]) -> Any:
    with anyio.fail_after(TIME_LIMIT):
        return await call


async def received(layer: PostgreSQLChannelLayer, count: int) -> list[bytes]:
    return [(await soon(layer.next_published())).message for _ in range(count)]


def messages(events: list[Event[bytes]]) -> list[bytes]:
    return [event.message for event in events]


async def test_positions_are_in_the_order_of_the_commits(database: brokers.Postgres, connect: Connect) -> None:
    """Who began earlier and commits later comes later, and nobody waits for him."""
    layer = await connect(database.url, history_length=100)
    await layer.subscribe("g")
    since = await layer.position("g")
    with transaction(database) as first, transaction(database) as second:
        first.publish(layer, "g", b"began first")
        second.publish(layer, "g", b"began second")
        await soon(layer.publish("g", b"meanwhile"))
        await anyio.to_thread.run_sync(second.commit)
        await soon(layer.publish("g", b"between"))
        await anyio.to_thread.run_sync(first.commit)
    order = [b"meanwhile", b"began second", b"between", b"began first"]
    live = [await soon(layer.next_published()) for _ in order]
    assert messages(live) == order
    history = await layer.history("g", since=since, limit=None)
    assert messages(history) == order
    assert [event.position for event in history] == [event.position for event in live]
    for before, after in pairwise(history):
        assert layer.is_after(after.position or "", before.position or "")


async def test_crossing_groups_do_not_deadlock(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=100)
    await layer.position("a")

    def send(groups: str) -> None:
        for _ in range(30):
            with transaction(database) as each:
                for group in groups:
                    each.publish(layer, group, group.encode())
                each.commit()

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            for groups in ("ab", "ba"):
                tasks.start_soon(anyio.to_thread.run_sync, send, groups)
            for _ in range(30):
                for group in "ba":
                    await layer.publish(group, b"direct")
    for group in "ab":
        assert len(await layer.history(group, since=None, limit=None)) == 90


async def test_a_rollback_leaves_nothing_anywhere(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=100)
    database.ask("CREATE TABLE line (n int)")
    await layer.subscribe("g")
    since = await layer.position("g")
    with transaction(database) as theirs:
        theirs.publish(layer, "g", b"rolled back")
        theirs.rollback()
        theirs.execute("INSERT INTO line VALUES (1)")
        theirs.publish(layer, "g", b"kept")
        theirs.execute("SAVEPOINT s")
        theirs.publish(layer, "g", b"of a savepoint")
        theirs.execute("INSERT INTO line VALUES (2)")
        theirs.execute("ROLLBACK TO s")
        theirs.publish(layer, "g", b"kept, too")
        assert await layer.position("g") == since
        theirs.commit()
    assert await received(layer, 2) == [b"kept", b"kept, too"]
    assert messages(await layer.history("g", since=since, limit=None)) == [b"kept", b"kept, too"]
    assert database.ask("SELECT n FROM line") == [(1,)]
    assert database.ask("SELECT count(*) FROM django_anyio_channels_outbox") == [(0,)]


async def test_a_constraint_that_is_made_immediate_changes_nothing(
    database: brokers.Postgres, connect: Connect
) -> None:
    """Django's TestCase does it."""
    layer = await connect(database.url, history_length=100)
    await layer.subscribe("g")
    await layer.position("g")
    with transaction(database) as theirs:
        theirs.publish(layer, "g", b"1")
        theirs.execute("SET CONSTRAINTS ALL IMMEDIATE")
        theirs.publish(layer, "g", b"2")
        theirs.commit()
    assert await received(layer, 2) == [b"1", b"2"]
    assert messages(await layer.history("g", since=None, limit=None)) == [b"1", b"2"]


async def test_a_snapshot_of_its_own_may_be_too_old(database: brokers.Postgres, connect: Connect) -> None:
    """As with every row that another transaction has changed meanwhile."""
    layer = await connect(database.url, history_length=100)
    await layer.publish("g", b"before")
    with transaction(database) as theirs:
        theirs.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        theirs.publish(layer, "g", b"alone")
        theirs.commit()
        theirs.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        theirs.publish(layer, "g", b"too late")
        await layer.publish("g", b"meanwhile")
        with pytest.raises(psycopg.errors.SerializationFailure):
            theirs.commit()
    kept = messages(await layer.history("g", since=None, limit=None))
    assert kept == [b"before", b"alone", b"meanwhile"]


async def test_a_database_of_another_encoding(database: brokers.Postgres, connect: Connect) -> None:
    name = f"{database.database}_latin"
    database.ask(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")
    latin = brokers.Postgres(database.server, database.programs, name)
    layer = await connect(latin.url, history_length=100)
    await layer.subscribe("g")
    await layer.publish("g", b"1")
    for size in (100, 5000, 7000, 50_000):
        message = bytes(range(256)) * (size // 256 + 1)
        await layer.publish("g", message)
    with transaction(latin) as theirs:
        theirs.run(layer.publish_in_transaction("g", message, encoding="LATIN1"))
        theirs.commit()
    live = await received(layer, 6)
    assert messages(await layer.history("g", since=None, limit=None)) == live
    assert [len(each) for each in live[1:]] == [256, 5120, 7168, 50_176, 50_176]
    await layer.disconnect()
    database.ask(f"DROP DATABASE {name} WITH (FORCE)")


async def test_in_a_transaction_the_order_is_that_of_the_calls(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=100)
    layer.disable_history("without")
    for group in ("g", "without", "h"):
        await layer.subscribe(group)
    large = b"x" * 30_000  # too large for one payload
    sent = [("h", b"1"), ("without", b"2"), ("g", b"3"), ("without", large), ("h", b"5"), ("g", b"6")]
    with transaction(database) as theirs:
        for group, message in sent:
            assert theirs.publish(layer, group, message) == PublishResult()
        theirs.commit()
    events = [await soon(layer.next_published()) for _ in sent]
    assert [(event.group, event.message) for event in events] == sent
    assert [event.position is None for event in events] == [group == "without" for group, _ in sent]


async def test_a_batch_of_groups_with_and_without_a_history(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=100)
    layer.disable_history("without")
    await layer.bind("with", "q", capacity=10, expiry=60, lifetime=60)
    await layer.subscribe("with")
    await layer.subscribe("without")
    results: list[tuple[str, PublishResult]] = []

    async def publish(group: str) -> None:
        results.append((group, await layer.publish(group, group.encode() * 2000)))

    async with anyio.create_task_group() as tasks:
        for group in ("with", "without", "with", "without"):
            tasks.start_soon(publish, group)
    await soon(publish("without"))
    assert sorted(await received(layer, 5)) == [b"without" * 2000] * 3 + [b"with" * 2000] * 2
    for group, result in results:
        assert (result.position is None) == (group == "without")
        assert [bound.queue for bound in result.bound_queues] == (["q"] if group == "with" else [])


@pytest.mark.parametrize("size", [1, 7890, 7900, 20_000, 5_000_000])
async def test_what_does_not_fit_is_read_from_the_table(
    database: brokers.Postgres, connect: Connect, size: int
) -> None:
    layer = await connect(database.url, history_length=100)
    await layer.subscribe("g")
    for message in (b"before", bytes(range(256)) * (size // 256) + b"\0" * (size % 256), b"after"):
        position = (await layer.publish("g", message)).position
        event = await soon(layer.next_published())
        assert (event.message, event.position) == (message, position)
    assert len((await layer.history("g", since=None, limit=2))[0].message) == size


# ---- limits -----------------------------------------------------------------------------------------------------


async def sizes(database: brokers.Postgres) -> int:
    query = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname ~ '^django_anyio'"
    ((size,),) = database.ask(query)
    return int(size)


async def test_count_and_bytes_are_limits_without_bloat(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=80, history_bytes=40_000)

    async def fill(count: int) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(layer.publish, "g", b"%06d" % number + b"x" * 194)

    since = (await layer.publish("g", b"x")).position
    await fill(1000)
    kept = await layer.history("g", since=None, limit=None)
    assert 80 <= len(kept) <= 90, "a few more, so that not each message has another one pruned"
    with pytest.raises(PositionLost):
        await layer.history("g", since=since, limit=None)
    assert messages(await layer.history("g", since=kept[0].position, limit=3)) == messages(kept[1:4])
    database.ask("VACUUM")
    before = await sizes(database)
    for _ in range(5):
        await fill(1000)
        database.ask("VACUUM")
    assert await sizes(database) <= 1.5 * before
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(layer.publish, "g", b"y" * 4000)
    kept = await layer.history("g", since=None, limit=None)
    assert messages(kept) == [b"y" * 4000] * len(kept)
    assert len(kept) == 7, "three quarters are for large messages"
    await layer.publish("g", b"z" * 100_000)
    assert messages(await layer.history("g", since=None, limit=None)) == [b"z" * 100_000], "the last one stays"


async def test_age_is_a_limit(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=1000, history_age=1000.0)
    await layer.publish("quiet", b"old")
    await layer.publish("busy", b"old")
    old = await layer.position("busy")
    await layer.publish("busy", b"newer")
    hour = "UPDATE django_anyio_channels_history SET number = number - 1001000000, previous = previous - 1001000000"
    database.ask(f"{hour} WHERE payload LIKE '%old'")
    database.ask("UPDATE django_anyio_channels_position SET oldest = oldest - 1001000000")
    database.ask("UPDATE django_anyio_channels_position SET last = last - 1001000000 WHERE topic = 'quiet'")
    assert messages(await layer.history("busy", since=None, limit=None)) == [b"newer"], "what is too old is not read"
    assert messages(await layer.history("busy", since=old, limit=None)) == [b"newer"]
    assert await layer.history("quiet", since=None, limit=None) == []
    session = layer._session
    assert session is not None
    await session.histories.prune()
    left = "SELECT convert_from(topic, 'UTF8'), kept, bytes FROM django_anyio_channels_position ORDER BY 1"
    assert database.ask(left) == [("busy", 1, 0), ("quiet", 0, 0)]
    database.ask("UPDATE django_anyio_channels_position SET touched = 0, last = 0 WHERE topic = 'quiet'")
    await session.histories.prune()
    assert database.ask(left) == [("busy", 1, 0)]
    database.ask(
        "UPDATE django_anyio_channels_history SET number = number - 2001000000, previous = previous - 2001000000"
    )
    database.ask("UPDATE django_anyio_channels_position SET oldest = oldest - 2001000000")
    await layer.publish("busy", b"newest")
    assert database.ask("SELECT payload FROM django_anyio_channels_history") == [(".newest",)], "who publishes prunes"


async def test_many_groups_share_a_page(database: brokers.Postgres, connect: Connect) -> None:
    layer, other = await connect(database.url, history_length=5000), await connect(database.url, history_length=5000)
    groups = [f"g{number}" for number in range(60)]
    since = {group: await layer.position(group) for group in groups}
    async with anyio.create_task_group() as tasks:
        for group in groups:
            for number in range(40):
                tasks.start_soon(other.publish, group, b"%s %d" % (group.encode(), number))
    found: dict[str, int] = {}

    async def read(group: str) -> None:
        found[group] = len(await layer.history(group, since=since[group], limit=None))

    async with anyio.create_task_group() as tasks:
        for group in groups:
            tasks.start_soon(read, group)
    assert found == dict.fromkeys(groups, 40)
    assert await layer.history("g1", since=None, limit=0) == []


async def test_purge_forgets(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=10)
    position = (await layer.publish("mine:g", b"x")).position
    await layer.publish("theirs:g", b"x")
    await layer.purge("mine:")
    with pytest.raises(PositionLost):
        await layer.history("mine:g", since=position, limit=None)
    assert len(await layer.history("theirs:g", since=None, limit=None)) == 1


# ---- what a layer without a history, and other programs, see -------------------------------------------------------


async def test_off_unless_asked_for(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    assert layer.retention == 0
    assert not layer.subscriptions_restored()
    assert await layer.publish("g", b"x") == PublishResult()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: layer.history("g", since=None, limit=1),
        lambda: layer.position("g"),
        lambda: layer.join("g", "workers"),
        lambda: layer.receive_event("g", "workers"),
    ]
    for call in calls:
        with pytest.raises(NotSupported, match="keeps no history unless history_length says how many"):
            await call()
    assert database.ask("SELECT relname FROM pg_class WHERE relname ~ '^django_anyio'") == []


async def test_notifications_of_other_programs(
    database: brokers.Postgres, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    layer = await connect(database.url, history_length=100)
    await layer.subscribe("g")
    first = (await layer.publish("g", b"1")).position
    assert first is not None
    epoch, _, number = first.partition("-")
    for forged in (
        "hello",
        f"{first} 0-0\n",  # "read the history": there is nothing new
        f"{first} {number}\n?x",
        f"{epoch}-9999999999999-9 {number}\n.forged",
        f"ffffffff-1-1 {number}\n.forged",
        f"{epoch}-9999999999999-9 1-1\n.forged",
    ):
        database.ask("SELECT pg_notify('g', %s)", forged)
    await layer.publish("g", b"2")
    events: list[Event[bytes]] = []
    while not events or events[-1].message != b"2":
        events.append(await soon(layer.next_published()))
    assert [event.message for event in events if event.message != b"forged"] == [b"1", b"2"]
    assert not any(isinstance(event, Gap) for event in events)
    assert "another program notifies this channel too" in caplog.text
    assert "a message of an unknown kind" in caplog.text


def test_entries_are_text() -> None:
    for message in (b"", b"abc\0\xff", bytes(range(256)) * 40, b"text " * 5000):
        for encoding in ("UTF8", "LATIN1"):
            payload = encode_entry(message, server_encoding=encoding)
            assert decode_entry(payload) == message
            assert payload.isascii() or encoding == "UTF8"
    assert len(encode_entry(bytes(range(256)) * 40, server_encoding="UTF8")) < 256 * 40 * 1.34
    with pytest.raises(DecodeError):
        decode_entry("")


# ---- tables -------------------------------------------------------------------------------------------------------


async def test_tables_of_an_older_version_are_kept(database: brokers.Postgres, connect: Connect) -> None:
    """What normal channels had before there were histories."""
    database.ask(sql.in_schema(sql.SCHEMA, "public"))
    older = await connect(database.url)
    await older.bind("g", "q", capacity=10, expiry=60, lifetime=60)
    await older.put("q", b"waits", capacity=10, expiry=60)
    layer = await connect(database.url, history_length=10)
    result = await layer.publish("g", b"x")
    assert result.position is not None
    assert [bound.queue for bound in result.bound_queues] == ["q"]
    assert await soon(layer.take("q")) == b"waits"
    assert [bound.queue for bound in (await older.publish("g", b"y")).bound_queues] == ["q"], "both at once"


async def test_tables_that_were_dropped_are_made_again(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=10)
    position = (await layer.publish("g", b"1")).position
    database.ask("DROP TABLE django_anyio_channels_position, django_anyio_channels_history CASCADE")
    assert (await layer.publish("g", b"2")).position is not None
    with pytest.raises(PositionLost):
        await layer.history("g", since=position, limit=None)


async def test_in_a_transaction_no_table_is_made(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=10)
    with transaction(database) as theirs:
        assert theirs.publish(layer, "g", b"1") is None
        await layer.purge("none")
        theirs.rollback()
        assert theirs.publish(layer, "g", b"1") == PublishResult()


async def test_behind_a_pooler(own_server: brokers.Postgres, connect: Connect) -> None:
    with ExitStack() as stack:
        pooler = stack.enter_context(brokers.pgbouncer(own_server, "transaction"))
        for synchronous in (False, True):
            layer = await connect(
                pooler.url, listen_url=own_server.url, history_length=10, synchronous_commit=synchronous
            )
            await layer.subscribe("g")
            since = await layer.position("g")
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(layer.publish, "g", b"%d" % number)
            assert sorted(await received(layer, 5)) == [b"%d" % number for number in range(5)]
            assert len(await layer.history("g", since=since, limit=None)) == 5
            await layer.disconnect()


async def test_an_error_of_the_database_is_one_of_publish(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=10)
    await layer.publish("g", b"1")
    database.ask("ALTER TABLE django_anyio_channels_history ADD CHECK (payload <> '.refused')")
    with pytest.raises(ChannelLayerError, match="violates check constraint"):
        await layer.publish("g", b"refused")
    assert (await layer.publish("g", b"2")).position is not None
    assert channel_name("g") == "g"
