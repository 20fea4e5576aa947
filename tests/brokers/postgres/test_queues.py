"""What queues do when the database refuses or breaks off, over a wire that plays a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import anyio
import asyncpg
import pytest

from django_anyio_channels.brokers.postgres import queues as postgres_queues
from django_anyio_channels.brokers.postgres.address import NotificationConnection
from django_anyio_channels.brokers.postgres.connection import Wire
from django_anyio_channels.brokers.postgres.queues import Message, Queues, Taken
from django_anyio_channels.brokers.postgres.statements import EXIST, GIVE_BACK, PURGE, PUT, SWEEP, TAKE
from django_anyio_channels.core.exceptions import ChannelLayerError, DeliveryUnknown, ListenerClosed

pytestmark = pytest.mark.anyio

ROW = (b"q", 7, b"message", datetime(2100, 1, 1, tzinfo=UTC))


class ScriptedWire:
    """Answers each statement with the next answer for it, else with no rows; an exception is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.sent: list[str] = []
        self.may_take = asyncio.Event()

    async def fetch(self, statement: str, *parameters: object) -> Any:
        self.sent.append(statement)
        if statement == TAKE:
            await self.may_take.wait()
        if statement == EXIST:
            return [(True,)]
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


def make(wire: ScriptedWire, kept: dict[bytes, list[Taken]] | None = None) -> Queues:
    async def listen(channels: Sequence[str]) -> None:
        pass

    return Queues("postgresql://test/", cast(Wire, wire), {} if kept is None else kept, listen, listen)


@asynccontextmanager
async def task(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.ensure_future(work())
    try:
        yield running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def take_and_leave(queues: Queues, wire: ScriptedWire) -> None:
    """A message is on its way to a reader who goes meanwhile."""
    wire.answers[TAKE] = [[ROW]]
    reader = asyncio.ensure_future(queues.take(b"q"))
    await wire.sends(TAKE)
    reader.cancel()
    await asyncio.wait([reader])
    wire.may_take.set()
    await anyio.wait_all_tasks_blocked()


async def test_what_a_reader_left_behind_goes_back_into_its_queue() -> None:
    wire = ScriptedWire()
    queues = make(wire)
    async with task(queues.run):
        await take_and_leave(queues, wire)
        await wire.sends(GIVE_BACK)


async def test_a_reader_cancelled_in_the_moment_of_its_message_leaves_it_to_the_next() -> None:
    wire = ScriptedWire()
    queues = make(wire)
    wire.answers[TAKE] = [[ROW]]
    async with task(queues.run):
        reader = asyncio.ensure_future(queues.take(b"q"))
        await wire.sends(TAKE)
        wire.may_take.set()
        await asyncio.sleep(0)  # it is handed out now, but the reader does not run yet
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert await queues.take(b"q") == b"message"
    assert GIVE_BACK not in wire.sent


async def test_what_cannot_be_given_back_is_kept_for_the_next_life() -> None:
    wire, kept = ScriptedWire(), dict[bytes, list[Taken]]()
    queues = make(wire, kept)
    async with task(queues.run):
        wire.answers[GIVE_BACK] = [ListenerClosed("gone"), ListenerClosed("gone")]
        await take_and_leave(queues, wire)
        await wire.sends(GIVE_BACK)
        queues.close(ListenerClosed("gone"))
        await queues.give_back()
    assert [taken.message for taken in kept[b"q"]] == [b"message"]
    assert await make(wire, kept).take(b"q") == b"message"


async def test_what_was_on_its_way_to_a_reader_as_the_link_broke_goes_back_in_the_next_life() -> None:
    wire, kept = ScriptedWire(), dict[bytes, list[Taken]]()
    queues = make(wire, kept)
    async with task(queues.run):
        wire.answers[TAKE] = [[ROW]]
        reader = asyncio.ensure_future(queues.take(b"q"))
        await wire.sends(TAKE)
        queues.close(ListenerClosed("the listening connection broke"))
        wire.may_take.set()
        await asyncio.wait([reader])
        assert isinstance(reader.exception(), ListenerClosed)
        await anyio.wait_all_tasks_blocked()
    assert GIVE_BACK not in wire.sent
    async with task(make(wire, kept).run):  # though nobody ever reads here again
        await wire.sends(GIVE_BACK)
    assert kept == {b"q": []}


async def test_what_may_have_been_given_back_is_not_handed_out_twice(caplog: pytest.LogCaptureFixture) -> None:
    wire, kept = ScriptedWire(), dict[bytes, list[Taken]]()
    queues = make(wire, kept)
    async with task(queues.run):
        wire.answers[GIVE_BACK] = [DeliveryUnknown("broke off")]
        await take_and_leave(queues, wire)
        queues.close(ListenerClosed("gone"))
        await queues.give_back()
    assert kept == {b"q": []}
    assert "1 messages that lost their readers may be lost: broke off" in caplog.text


async def test_purge_forgets_only_what_it_names() -> None:
    wire, expires = ScriptedWire(), ROW[3]
    kept = {name: [Taken(1, b"1", expires), Taken(2, b"2", expires)] for name in (b"mine", b"theirs")}
    queues = make(wire, kept)
    for name in (b"mine", b"theirs"):
        assert await queues.take(name) == b"1"
    await queues.purge(b"mine")
    assert wire.sent == [EXIST, PURGE]
    assert await queues.take(b"theirs") == b"2"
    with anyio.move_on_after(0.05) as scope:
        await queues.take(b"mine")
    assert scope.cancelled_caught


async def test_closing_ends_readers_and_leaves_the_cancelled_alone() -> None:
    queues = make(ScriptedWire())
    readers = [asyncio.ensure_future(queues.take(b"q")) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    readers[0].cancel()
    queues.close(ListenerClosed("gone"))
    await asyncio.wait(readers)
    assert readers[0].cancelled()
    assert isinstance(readers[1].exception(), ListenerClosed)


async def test_an_error_of_the_database_names_the_address() -> None:
    wire = ScriptedWire()
    wire.answers[PURGE] = [asyncpg.DiskFullError("no space left")]
    with pytest.raises(ChannelLayerError, match="postgresql://test/: no space left"):
        await make(wire).purge(b"q")


async def test_different_capacities_of_one_queue_make_statements_of_their_own() -> None:
    wire = ScriptedWire()
    await make(wire).put([Message(b"q", b"x", 1, 60), Message(b"q", b"x", 2, 60)])
    assert wire.sent.count(PUT) == 2


async def test_sweeping_goes_on_after_an_error_and_ends_with_the_link(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres_queues, "_LOOK_SECONDS", 0.001)
    wire = ScriptedWire()
    wire.answers[SWEEP] = [asyncpg.DiskFullError("no space left"), [], ListenerClosed("gone")]
    queues = make(wire)
    await queues.put([Message(b"q", b"x", 1, 60)])
    with anyio.fail_after(30):
        await queues.watch()
    assert wire.sent.count(SWEEP) == 3
    assert "The queues cannot be tidied: postgresql://test/: no space left" in caplog.text


async def test_a_queue_that_nobody_reads_any_more_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_queues, "_LOOK_SECONDS", 0.001)
    wire, unlistened = ScriptedWire(), asyncio.Event()

    async def listen(channels: Sequence[str]) -> None:
        pass

    async def unlisten(channels: Sequence[str]) -> None:
        assert len(channels) == 1
        unlistened.set()

    queues = Queues("postgresql://test/", cast(Wire, wire), {}, listen, unlisten)
    wire.answers[TAKE] = [[ROW]]
    wire.may_take.set()
    async with task(queues.run), task(queues.watch):
        with anyio.fail_after(30):
            assert await queues.take(b"q") == b"message"
            await unlistened.wait()


class ClosingConnection:
    """Breaks with an error that is not one of a connection."""

    closed = False

    def add_termination_listener(self, listener: object) -> None:
        pass

    def is_closed(self) -> bool:
        return self.closed

    async def execute(self, script: str) -> None:
        self.closed = True
        raise asyncpg.InternalServerError("the server gave up")


async def test_an_error_that_closed_the_connection_leaves_the_outcome_open() -> None:
    lost: list[ListenerClosed] = []
    wire = Wire(cast(NotificationConnection, ClosingConnection()), "postgresql://test/", lost.append)
    with pytest.raises(DeliveryUnknown, match="postgresql://test/: the server gave up"):
        await wire.execute("SELECT 1")
