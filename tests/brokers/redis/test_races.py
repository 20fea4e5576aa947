"""Readers of queues at moments that no server can be made to meet: the replies are scripted here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import anyio
import hiredis
import pytest

from django_anyio_channels import ChannelLayerError, ListenerClosed
from django_anyio_channels.brokers.redis import queues as redis_queues
from django_anyio_channels.brokers.redis.queues import Queues
from django_anyio_channels.brokers.redis.scripts import EXPIRY_PREFIX
from django_anyio_channels.brokers.redis.subscriptions import SubscribedSession

from .conftest import becomes_true

pytestmark = pytest.mark.anyio


class ScriptedSession:
    """One session with a server that answers when the test says so."""

    publish_command = "PUBLISH"

    def __init__(self) -> None:
        self.executed: list[asyncio.Future[Any]] = []
        self.commands: list[bytes] = []
        self.subscriptions = self
        self.wake: Callable[[bytes], None] | None = None

    def executor(self, key: bytes) -> ScriptedSession:
        return self

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        self.commands.append(command)
        self.executed.append(asyncio.get_running_loop().create_future())
        return self.executed[-1]

    def wire_name(self, name: bytes) -> bytes:
        return name

    def watch(self, name: bytes, callback: Callable[[bytes], None]) -> asyncio.Future[Any]:
        if self.wake is None:
            self.wake = callback
        else:
            self.push = callback
        return self.execute(name)

    def translate_error(self, reply: hiredis.ReplyError) -> Exception:
        return ChannelLayerError(str(reply))

    def is_transient(self, reply: hiredis.ReplyError, queue: str) -> bool:
        return str(reply).startswith("MOVED ")

    async def answer(self, number: int, reply: Any) -> None:
        """Give the reply to the command of this number, once that is asked."""
        await becomes_true(lambda: len(self.executed) > number)
        self.executed[number].set_result(reply)
        await asyncio.sleep(0)


def begin(queues: Queues) -> ScriptedSession:
    """Begin a session."""
    session = ScriptedSession()
    queues.start(cast(SubscribedSession, session))
    return session


def end(queues: Queues, session: ScriptedSession) -> None:
    """End it."""
    queues.end(ListenerClosed("broken"))
    for reply in session.executed:
        if not reply.done():
            reply.set_exception(ListenerClosed("broken"))
            reply.exception()  # as a connection does


def with_expiry(message: bytes) -> bytes:
    return b"9" * EXPIRY_PREFIX + message


async def test_cancelled_with_a_message_in_its_hands_as_the_session_breaks() -> None:
    queues = Queues()
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    session.executed[0].set_result([with_expiry(b"job")])
    await asyncio.sleep(0)  # the answer is handed out; the reader has not run yet
    end(queues, session)
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    session = begin(queues)
    await becomes_true(lambda: session.executed)
    assert with_expiry(b"job") in session.commands[0], "given back by the next session"


async def test_a_queue_is_not_forgotten_while_a_reader_has_a_message_in_its_hands() -> None:
    queues = Queues()
    session = begin(queues)
    first = asyncio.ensure_future(queues.take("jobs"))
    await session.answer(0, [with_expiry(b"1")])
    assert await first == b"1"
    queues.prune()
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    session.executed[1].set_result([with_expiry(b"2")])
    await asyncio.sleep(0)  # the answer is handed out; the reader has not run yet
    queues.prune()
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    with anyio.fail_after(30):
        assert await queues.take("jobs") == b"2", "and not what comes after it"


async def test_cancelled_as_the_session_breaks() -> None:
    queues = Queues()
    session = begin(queues)
    one, other = [asyncio.ensure_future(queues.take("jobs")) for _ in range(2)]
    await asyncio.sleep(0)
    one.cancel()
    end(queues, session)
    await asyncio.wait([one, other])
    assert one.cancelled()
    with pytest.raises(ListenerClosed, match="broken"):
        await other


async def test_the_session_breaks_while_it_is_asked_for_wake_ups() -> None:
    queues = Queues()
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    session.executed[0].set_result([])
    await asyncio.sleep(0)
    end(queues, session)
    with pytest.raises(ListenerClosed, match="broken"):
        await reader
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    session.executed[0].set_result([with_expiry(b"job")])
    assert await reader == b"job"


async def test_a_subscription_to_wake_ups_outwaits_a_slot_that_nobody_serves() -> None:
    queues = Queues()
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    moved = hiredis.ReplyError("MOVED 1 elsewhere")
    for number, reply in enumerate(
        ([], moved, [b"ssubscribe"], [b"ssubscribe"], [b"ssubscribe"], [with_expiry(b"job")])
    ):
        await session.answer(number, reply)
    assert await reader == b"job"


async def held(queues: Queues) -> ScriptedSession:
    """A session in which a message came for a reader that has gone."""
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    await session.answer(0, [with_expiry(b"job")])
    await becomes_true(lambda: len(session.executed) == 2)
    assert with_expiry(b"job") in session.commands[1], "given back"
    return session


async def test_what_is_given_back_as_the_session_breaks_is_given_back_again_once() -> None:
    queues = Queues()
    session = await held(queues)
    end(queues, session)
    again = begin(queues)
    assert again.commands == [session.commands[1]], "under its number: if it was done, nothing happens"
    await again.answer(0, 1)
    end(queues, again)
    assert begin(queues).executed == []


async def test_what_the_server_does_not_take_back_goes_to_the_next_reader(caplog: pytest.LogCaptureFixture) -> None:
    queues = Queues()
    session = await held(queues)
    await session.answer(1, hiredis.ReplyError("OOM no room"))
    assert "1 messages cannot be requeued yet: OOM no room" in caplog.text
    assert await queues.take("jobs") == b"job"


async def test_a_script_that_was_forgotten_before_messages_are_given_back() -> None:
    queues = Queues()
    session = await held(queues)
    await session.answer(1, hiredis.ReplyError("NOSCRIPT No matching script"))
    assert with_expiry(b"job") in session.commands[2]
    await session.answer(2, 1)
    assert len(session.executed) == 3


async def waiting(queues: Queues) -> tuple[ScriptedSession, asyncio.Task[bytes]]:
    """A session in which a reader's second call waits on the server."""
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    for number, reply in enumerate(([], [b"subscribe"], [b"subscribe"], [])):
        await session.answer(number, reply)
    return session, reader


async def test_a_call_about_a_slot_that_moves_is_repeated() -> None:
    queues = Queues()
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await session.answer(0, hiredis.ReplyError("MOVED 1 127.0.0.1:1"))
    assert session.commands[1] == session.commands[0]
    await session.answer(1, [with_expiry(b"job")])
    assert await reader == b"job"


async def test_only_the_push_for_the_call_that_waits_is_taken() -> None:
    queues = Queues()
    session, reader = await waiting(queues)
    for garbage in (b"", b"1 " + with_expiry(b"of an earlier call"), b"\xff\x00 " + with_expiry(b"x"), b"2"):
        session.push(garbage)
    session.push(b"2 " + with_expiry(b"job"))
    session.push(b"2 " + with_expiry(b"twice"))
    assert await reader == b"job"


async def test_what_comes_between_a_call_and_its_empty_answer_is_asked_for() -> None:
    queues = Queues()
    session, reader = await waiting(queues)
    assert session.wake is not None
    session.wake(b"")
    assert len(session.executed) == 5
    session.wake(b"")
    assert len(session.executed) == 5, "one call at a time"
    await session.answer(4, [])
    await session.answer(5, [with_expiry(b"job")])
    assert await reader == b"job"


async def test_a_call_that_waits_is_repeated_before_the_server_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = Queues()
    session, reader = await waiting(queues)
    queues.prune()
    assert len(session.executed) == 4
    monkeypatch.setattr(redis_queues, "_REPEAT_SECONDS", -1.0)
    queues.prune()
    queues.prune()
    assert len(session.executed) == 5, "once, until it is answered"
    await session.answer(4, [with_expiry(b"job")])
    assert await reader == b"job"


async def test_a_call_whose_answer_was_lost_is_asked_for_again_under_its_number() -> None:
    queues = Queues()
    session = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    end(queues, session)
    with pytest.raises(ListenerClosed, match="broken"):
        await reader
    again = begin(queues)
    await again.answer(0, [with_expiry(b"job")])
    assert await queues.take("jobs") == b"job"


async def asking_again(monkeypatch: pytest.MonkeyPatch, queues: Queues) -> tuple[ScriptedSession, asyncio.Task[bytes]]:
    """A session in which a reader waits for what another node has prefetched, and the moment has come to ask again."""
    session, reader = await waiting(queues)
    assert session.wake is not None
    session.wake(b"")
    asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    original = queues._call_again

    def call_again(*arguments: Any) -> None:
        original(*arguments)
        asked.set_result(None)

    monkeypatch.setattr(queues, "_call_again", call_again)
    await session.answer(4, 1)
    monkeypatch.setattr(session, "asked", asked, raising=False)
    return session, reader


async def test_what_another_node_has_prefetched_is_asked_for_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queues = Queues()
    session, reader = await asking_again(monkeypatch, queues)
    await session.answer(5, [with_expiry(b"job")])
    assert await reader == b"job"


async def test_it_is_not_asked_for_when_the_reader_has_got_another_message(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = Queues()
    session, reader = await asking_again(monkeypatch, queues)
    session.push(b"2 " + with_expiry(b"job"))
    assert await reader == b"job"
    await cast(Any, session).asked
    assert len(session.executed) == 5


@pytest.mark.parametrize("moment", ["the call waits", "the call is under way", "another node had prefetched"])
async def test_what_comes_while_no_reader_is_here_is_asked_for_when_the_next_one_is(moment: str) -> None:
    queues = Queues()
    session, reader = await waiting(queues)
    assert session.wake is not None
    session.wake(b"")
    if moment == "the call is under way":
        session.wake(b"")
    else:
        await session.answer(4, 600_000)
    reader.cancel()
    await asyncio.wait([reader])
    if moment == "the call waits":
        session.wake(b"")
    elif moment == "the call is under way":
        await session.answer(4, [])
    else:
        queues._call_again(queues._queues[b"jobs"], cast(SubscribedSession, session), 2)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await session.answer(5, [])  # it was ended, since nobody waited
    await session.answer(6, [with_expiry(b"job")])
    assert await reader == b"job"
