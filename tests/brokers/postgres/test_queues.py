"""Queues over a connection that plays a script, and over real databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import anyio
import asyncpg
import psycopg
import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.brokers.common.batching import Batcher
from django_anyio_channels.brokers.postgres import queues as postgres_queues
from django_anyio_channels.brokers.postgres.connection import Connection
from django_anyio_channels.brokers.postgres.payloads import wake_channel
from django_anyio_channels.brokers.postgres.queues import Leased, LeasedMessages, Message, Queues
from django_anyio_channels.brokers.postgres.statements import (
    FIND_TABLES,
    PURGE,
    PUT,
    REQUEUE,
    SCHEMA,
    SWEEP,
    TAKE,
    in_schema,
    listen,
    unlisten,
)
from django_anyio_channels.core.exceptions import (
    ChannelLayerError,
    DeliveryUnknown,
    ListenerClosed,
    NotSupported,
    QueueFull,
)
from tests.support.brokers import postgres as brokers

from .conftest import Connect, publish

pytestmark = pytest.mark.anyio

ROW = (b"q", 7, b"message", datetime(2100, 1, 1, tzinfo=UTC))


class ScriptedConnection:
    """Answers each statement with the next answer for it, else with no rows; an exception is raised."""

    address = "postgresql://test/"

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.sent: list[str] = []
        self.may_take = asyncio.Event()

    async def fetch(self, statement: str, *parameters: object) -> Any:
        statement = statement.replace('"public"', "{schema}")
        self.sent.append(statement)
        if statement == TAKE:
            await self.may_take.wait()
        if statement == FIND_TABLES:
            return [("public", True, None, True, "postgres")]
        if statement == PUT:
            return [(1,)]
        answers = self.answers.get(statement)
        answer = answers.pop(0) if answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sends(self, statement: str) -> None:
        with anyio.fail_after(30):
            while statement not in self.sent:
                await anyio.sleep(0.01)


class Scripts:
    """What is executed on the connection that listens."""

    def __init__(self) -> None:
        self.executed: list[str] = []

    async def call(self, script: str) -> None:
        self.executed.append(script)


def make(
    connection: ScriptedConnection, leased: dict[bytes, LeasedMessages] | None = None, scripts: Scripts | None = None
) -> Queues:
    return Queues(
        cast(Connection, connection), cast(Batcher[str, None], scripts or Scripts()), {} if leased is None else leased
    )


@asynccontextmanager
async def task(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.ensure_future(work())
    try:
        yield running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def take_and_cancel(queues: Queues, connection: ScriptedConnection) -> None:
    """A message is taken for a reader that is cancelled meanwhile."""
    connection.answers[TAKE] = [[ROW]]
    reader = asyncio.ensure_future(queues.take(b"q"))
    await connection.sends(TAKE)
    reader.cancel()
    await asyncio.wait([reader])
    connection.may_take.set()
    await anyio.wait_all_tasks_blocked()


async def test_a_message_of_a_cancelled_reader_goes_back_into_its_queue() -> None:
    connection = ScriptedConnection()
    queues = make(connection)
    async with task(queues.run):
        await take_and_cancel(queues, connection)
        await connection.sends(REQUEUE)


async def test_nothing_is_taken_for_a_reader_that_was_cancelled_while_its_node_began_to_listen() -> None:
    class SlowScripts(Scripts):
        listening, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def call(self, script: str) -> None:
            self.listening.set()
            await self.may_end.wait()
            self.ended.set()

    connection, scripts = ScriptedConnection(), SlowScripts()
    queues = make(connection, scripts=scripts)
    async with task(queues.run):
        reader = asyncio.ensure_future(queues.take(b"q"))
        with anyio.fail_after(30):
            await scripts.listening.wait()
        reader.cancel()
        await asyncio.wait([reader])
        scripts.may_end.set()
        with anyio.fail_after(30):
            await scripts.ended.wait()
        await anyio.wait_all_tasks_blocked()
    assert TAKE not in connection.sent


async def test_a_reader_that_is_cancelled_when_its_message_comes_leaves_it_to_the_next() -> None:
    connection = ScriptedConnection()
    queues = make(connection)
    connection.answers[TAKE] = [[ROW]]
    async with task(queues.run):
        reader = asyncio.ensure_future(queues.take(b"q"))
        await connection.sends(TAKE)
        connection.may_take.set()
        await asyncio.sleep(0)  # the reader has its message now, but does not run yet
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert await queues.take(b"q") == b"message"
    assert REQUEUE not in connection.sent


async def test_a_message_that_was_taken_meanwhile_is_not_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = ScriptedConnection()
    queues = make(connection)
    connection.answers[TAKE] = [[ROW]]
    due: list[Callable[[], object]] = []
    loop = asyncio.get_running_loop()
    async with task(queues.run):
        reader = asyncio.ensure_future(queues.take(b"q"))
        await connection.sends(TAKE)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_later", lambda delay, call, *arguments: due.append(partial(call, *arguments)))
            connection.may_take.set()
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
        assert await queues.take(b"q") == b"message"
        for call in due:
            call()
        await anyio.wait_all_tasks_blocked()
    assert due
    assert REQUEUE not in connection.sent


async def test_a_message_that_cannot_be_requeued_is_kept_for_the_next_session() -> None:
    connection, leased = ScriptedConnection(), dict[bytes, LeasedMessages]()
    queues = make(connection, leased)
    async with task(queues.run):
        connection.answers[REQUEUE] = [ListenerClosed("gone"), ListenerClosed("gone")]
        await take_and_cancel(queues, connection)
        await connection.sends(REQUEUE)
        queues.close(ListenerClosed("gone"))
        await queues.requeue_all()
    assert [each.message for each in leased[b"q"]] == [b"message"]
    assert await make(connection, leased).take(b"q") == b"message"


async def test_a_message_that_was_being_taken_when_the_connection_broke_is_requeued_in_the_next_session() -> None:
    connection, leased = ScriptedConnection(), dict[bytes, LeasedMessages]()
    queues = make(connection, leased)
    async with task(queues.run):
        connection.answers[TAKE] = [[ROW]]
        reader = asyncio.ensure_future(queues.take(b"q"))
        await connection.sends(TAKE)
        queues.close(ListenerClosed("the listening connection broke"))
        connection.may_take.set()
        await asyncio.wait([reader])
        assert isinstance(reader.exception(), ListenerClosed)
        await anyio.wait_all_tasks_blocked()
    assert REQUEUE not in connection.sent
    async with task(make(connection, leased).run):  # though nobody reads here again
        await connection.sends(REQUEUE)
    assert leased == {b"q": LeasedMessages()}


async def test_a_message_that_may_have_been_requeued_is_not_delivered_twice(caplog: pytest.LogCaptureFixture) -> None:
    connection, leased = ScriptedConnection(), dict[bytes, LeasedMessages]()
    queues = make(connection, leased)
    async with task(queues.run):
        connection.answers[REQUEUE] = [DeliveryUnknown("broke off")]
        await take_and_cancel(queues, connection)
        queues.close(ListenerClosed("gone"))
        await queues.requeue_all()
    assert leased == {b"q": LeasedMessages()}
    assert "1 messages whose readers were cancelled may be lost: broke off" in caplog.text


async def test_purge_forgets_only_what_it_names() -> None:
    connection, expires = ScriptedConnection(), ROW[3]
    leased = {
        name: LeasedMessages([Leased(1, b"1", expires), Leased(2, b"2", expires)]) for name in (b"mine", b"theirs")
    }
    queues = make(connection, leased)
    for name in (b"mine", b"theirs"):
        assert await queues.take(name) == b"1"
    await queues.purge(b"mine")
    assert connection.sent == [FIND_TABLES, PURGE]
    assert await queues.take(b"theirs") == b"2"
    with anyio.move_on_after(0.05) as scope:
        await queues.take(b"mine")
    assert scope.cancelled_caught


async def test_closing_ends_readers_and_leaves_the_cancelled_alone() -> None:
    queues = make(ScriptedConnection())
    readers = [asyncio.ensure_future(queues.take(b"q")) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    readers[0].cancel()
    queues.close(ListenerClosed("gone"))
    await asyncio.wait(readers)
    assert readers[0].cancelled()
    assert isinstance(readers[1].exception(), ListenerClosed)


async def test_an_error_of_the_database_names_the_address() -> None:
    connection = ScriptedConnection()
    connection.answers[PURGE] = [asyncpg.DiskFullError("no space left")]
    with pytest.raises(ChannelLayerError, match="postgresql://test/: no space left"):
        await make(connection).purge(b"q")


async def test_different_capacities_of_one_queue_make_statements_of_their_own() -> None:
    connection = ScriptedConnection()
    queues = make(connection)
    async with task(queues.puts.run), anyio.create_task_group() as tasks:
        for capacity in (1, 2):
            tasks.start_soon(queues.put, Message(b"q", b"x", capacity, 60))
    assert connection.sent.count(PUT) == 2


async def test_sweeping_goes_on_after_an_error_and_ends_with_the_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres_queues, "_POLL_INTERVAL", 0.001)
    connection = ScriptedConnection()
    connection.answers[SWEEP] = [asyncpg.DiskFullError("no space left"), [], ListenerClosed("gone")]
    queues = make(connection)
    async with task(queues.puts.run):
        await queues.put(Message(b"q", b"x", 1, 60))
        with anyio.fail_after(30):
            await queues.maintain()
    assert connection.sent.count(SWEEP) == 3
    assert "Expired messages of the queues cannot be deleted: postgresql://test/: no space left" in caplog.text


async def test_a_queue_without_readers_is_unlistened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_queues, "_POLL_INTERVAL", 0.001)
    connection, scripts = ScriptedConnection(), Scripts()
    queues = make(connection, scripts=scripts)
    connection.answers[TAKE] = [[ROW]]
    connection.may_take.set()
    async with task(queues.run), task(queues.maintain):
        with anyio.fail_after(30):
            assert await queues.take(b"q") == b"message"
            while len(scripts.executed) < 2:
                await anyio.sleep(0.001)
    assert scripts.executed == [listen(wake_channel(b"q")), unlisten(wake_channel(b"q"))]


# ---- on a database -----------------------------------------------------------------------------------------------


async def test_two_layers_that_need_the_tables_at_once_make_them_once(
    database: brokers.Postgres, connect: Connect
) -> None:
    layers = [await connect(database.url) for _ in range(4)]

    async def put(layer: PostgreSQLChannelLayer) -> None:
        await layer.put("q", b"x", capacity=10, expiry=60)

    async with anyio.create_task_group() as tasks:
        for layer in layers:
            tasks.start_soon(put, layer)
    for layer in layers:
        assert await layer.take("q") == b"x"


async def test_messages_for_several_queues_share_a_statement(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    full: set[tuple[str, int]] = set()

    async def put(queue: str, number: int) -> None:
        try:
            await layer.put(queue, b"%d" % number, capacity=3, expiry=60)
        except QueueFull as error:
            assert str(error) == f"Queue {queue} is full (capacity 3)"
            full.add((queue, number))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            for queue in ("b", "a"):
                tasks.start_soon(put, queue, number)
    assert full == {("a", 3), ("b", 3)}
    for queue in ("a", "b"):
        assert [await layer.take(queue) for _ in range(3)] == [b"0", b"1", b"2"]


async def test_without_the_right_to_make_tables_the_error_has_the_sql(
    database: brokers.Postgres, connect: Connect
) -> None:
    database.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    database.ask("DO $$ BEGIN CREATE ROLE guest LOGIN PASSWORD 'guest'; EXCEPTION WHEN duplicate_object THEN END $$")
    guest = {**database.connection, "user": "guest", "password": "guest"}
    layer = PostgreSQLChannelLayer(**guest)
    await layer.connect()
    try:
        await layer.subscribe("g")
        await layer.publish("g", b"needs no tables")
        assert (await layer.next_published()).message == b"needs no tables"
        for call in (layer.put("q", b"x", capacity=1, expiry=60), layer.take("q"), layer.purge("q")):
            with pytest.raises(NotSupported) as caught:
                await call
            assert layer.address in str(caught.value)
            assert in_schema(SCHEMA, "public") in str(caught.value)
        with psycopg.connect(database.url, autocommit=True) as owner:
            owner.execute(in_schema(SCHEMA, "public").encode())
        with pytest.raises(NotSupported, match="permission denied .*need these rights") as caught:
            await layer.put("q", b"x", capacity=1, expiry=60)
        _, _, grants = str(caught.value).partition("\n")
        with psycopg.connect(database.url, autocommit=True) as owner:
            owner.execute(grants.encode())
        await layer.put("q", b"x", capacity=1, expiry=60)
        assert await layer.take("q") == b"x"
    finally:
        await layer.disconnect()


async def test_tables_that_vanish_are_made_again(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    await publish(layer, "g", b"x")
    assert await layer.take("q") == b"x"
    database.ask("DROP TABLE django_anyio_channels_queue, django_anyio_channels_binding")
    await publish(layer, "g", b"unbound now")
    await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"y"


@pytest.mark.parametrize(
    "what",
    [
        "TABLE django_anyio_channels_queue",
        "TABLE django_anyio_channels_binding",
        "FUNCTION django_anyio_channels_put",
    ],
)
async def test_a_part_of_what_queues_need_that_vanishes_is_made_again(
    database: brokers.Postgres, connect: Connect, what: str
) -> None:
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"
    database.ask(f"DROP {what}")
    await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"y"
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    await publish(layer, "g", b"z")
    assert await layer.take("q") == b"z"


async def test_a_function_of_another_version_is_left_alone(database: brokers.Postgres, connect: Connect) -> None:
    former = (
        "django_anyio_channels_put(queues bytea[], messages bytea[], expiries float8[], capacities int[], wakes text[])"
    )
    database.ask(f"CREATE FUNCTION {former} RETURNS SETOF boolean LANGUAGE sql AS 'SELECT false'")
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    with pytest.raises(QueueFull):
        await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"


@pytest.mark.parametrize("preferred", ["plan_cache_mode = force_custom_plan", "enable_indexscan = off"])
async def test_a_long_queue_is_taken_in_its_order_however_the_database_plans(
    database: brokers.Postgres, connect: Connect, preferred: str
) -> None:
    database.ask(f"ALTER DATABASE {database.database} SET {preferred}")
    layer = await connect(database.url)
    for number in range(300):
        await layer.put("q", b"%d" % number, capacity=1000, expiry=60)
    assert [await layer.take("q") for _ in range(300)] == [b"%d" % number for number in range(300)]


async def test_the_isolation_that_the_database_prefers_makes_no_difference(
    database: brokers.Postgres, connect: Connect
) -> None:
    database.ask(f"ALTER DATABASE {database.database} SET default_transaction_isolation = 'serializable'")
    layers = [await connect(database.url) for _ in range(4)]
    taken: list[bytes] = []
    full = 0

    async def put(layer: PostgreSQLChannelLayer, number: int) -> None:
        nonlocal full
        try:
            await layer.put("q", b"%d" % number, capacity=20, expiry=60)
        except QueueFull:
            full += 1

    async def take(layer: PostgreSQLChannelLayer, count: int) -> None:
        for _ in range(count):
            taken.append(await layer.take("q"))

    with anyio.fail_after(30):
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(put, layers[number % 4], number)
            assert full == 20
            async with anyio.create_task_group() as tasks:
                for layer in layers:
                    tasks.start_soon(take, layer, 5)
            assert len(set(taken)) == 20
            full, taken = 0, []


async def test_a_new_layer_does_not_sweep_the_backlog_of_others(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    other = await connect(database.url)
    await other.put("another", b"x", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"


async def test_dead_rows_go_by_themselves(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_queues, "_POLL_INTERVAL", 0.01)
    layer = await connect(database.url)
    await layer.put("q", b"dies", capacity=10, expiry=0.01)
    await layer.put("q", b"lives", capacity=10, expiry=60)
    await layer.bind("g", "q", capacity=10, expiry=60, lifetime=0.01)
    query = "SELECT message FROM django_anyio_channels_queue UNION ALL SELECT topic FROM django_anyio_channels_binding"
    with anyio.fail_after(30):
        while (rows := await anyio.to_thread.run_sync(database.ask, query)) != [(b"lives",)]:
            assert (b"lives",) in rows
