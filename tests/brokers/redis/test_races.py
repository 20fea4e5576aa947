"""Readers of queues at moments that no server can be made to meet: what a wire says is scripted here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import anyio
import hiredis
import pytest

from django_anyio_channels import ChannelLayerError, ListenerClosed
from django_anyio_channels.brokers.redis import queues as redis_queues
from django_anyio_channels.brokers.redis.queues import Link, Queues
from django_anyio_channels.brokers.redis.scripts import EXPIRY_PREFIX

from .conftest import becomes_true

pytestmark = pytest.mark.anyio


class ScriptedLink:
    """One life of a server that answers when the test says so."""

    publish_verb = "PUBLISH"

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []
        self.commands_asked: list[bytes] = []
        self.subscriptions = self
        self.wake: Callable[[bytes], None] | None = None

    def commands(self, key: bytes) -> ScriptedLink:
        return self

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        self.commands_asked.append(command)
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def signal(self, name: bytes, callback: Callable[[bytes], None]) -> asyncio.Future[Any]:
        if self.wake is None:
            self.wake = callback
        else:
            self.push = callback
        return self.ask(name)

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        return ChannelLayerError(str(reply))

    def outwaits(self, reply: hiredis.ReplyError, queue: str) -> bool:
        return str(reply).startswith("MOVED ")

    async def answer(self, number: int, reply: Any) -> None:
        """Give the reply to the command of this number, once that is asked."""
        await becomes_true(lambda: len(self.asked) > number)
        self.asked[number].set_result(reply)
        await asyncio.sleep(0)


def begin(queues: Queues) -> ScriptedLink:
    """A life begins."""
    link = ScriptedLink()
    queues.begin(cast(Link, link))
    return link


def end(queues: Queues, link: ScriptedLink) -> None:
    """It breaks."""
    queues.end(ListenerClosed("broken"))
    for asked in link.asked:
        if not asked.done():
            asked.set_exception(ListenerClosed("broken"))
            asked.exception()  # as the wire does, for those that nobody waits for


def stamped(message: bytes) -> bytes:
    return b"9" * EXPIRY_PREFIX + message


async def test_cancelled_with_a_message_in_its_hands_as_the_link_breaks() -> None:
    queues = Queues()
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    link.asked[0].set_result([stamped(b"job")])
    await asyncio.sleep(0)  # the answer is handed out; the reader has not run yet
    end(queues, link)
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    link = begin(queues)
    await becomes_true(lambda: link.asked)
    assert stamped(b"job") in link.commands_asked[0], "given back by the next life"


async def test_a_queue_is_not_forgotten_while_a_reader_has_a_message_in_its_hands() -> None:
    queues = Queues()
    link = begin(queues)
    first = asyncio.ensure_future(queues.take("jobs"))
    await link.answer(0, [stamped(b"1")])
    assert await first == b"1"
    queues.tidy()
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    link.asked[1].set_result([stamped(b"2")])
    await asyncio.sleep(0)  # the answer is handed out; the reader has not run yet
    queues.tidy()
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    with anyio.fail_after(30):
        assert await queues.take("jobs") == b"2", "and not what comes after it"


async def test_cancelled_as_the_link_breaks() -> None:
    queues = Queues()
    link = begin(queues)
    one, other = [asyncio.ensure_future(queues.take("jobs")) for _ in range(2)]
    await asyncio.sleep(0)
    one.cancel()
    end(queues, link)
    await asyncio.wait([one, other])
    assert one.cancelled()
    with pytest.raises(ListenerClosed, match="broken"):
        await other


async def test_the_link_breaks_while_it_is_asked_for_wake_ups() -> None:
    queues = Queues()
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    link.asked[0].set_result([])
    await asyncio.sleep(0)
    end(queues, link)
    with pytest.raises(ListenerClosed, match="broken"):
        await reader
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    link.asked[0].set_result([stamped(b"job")])
    assert await reader == b"job"


async def test_a_subscription_to_wake_ups_outwaits_a_slot_that_nobody_serves() -> None:
    queues = Queues()
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    moved = hiredis.ReplyError("MOVED 1 elsewhere")
    for number, reply in enumerate(([], moved, [b"ssubscribe"], [b"ssubscribe"], [b"ssubscribe"], [stamped(b"job")])):
        await link.answer(number, reply)
    assert await reader == b"job"


async def held(queues: Queues) -> ScriptedLink:
    """A life in which a message came for a reader that has gone."""
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    await link.answer(0, [stamped(b"job")])
    await becomes_true(lambda: len(link.asked) == 2)
    assert stamped(b"job") in link.commands_asked[1], "given back"
    return link


async def test_what_is_given_back_as_the_link_breaks_is_given_back_again_once() -> None:
    queues = Queues()
    link = await held(queues)
    end(queues, link)
    again = begin(queues)
    assert again.commands_asked == [link.commands_asked[1]], "under its number: if it was done, nothing happens"
    await again.answer(0, 1)
    end(queues, again)
    assert begin(queues).asked == []


async def test_what_the_server_does_not_take_back_goes_to_the_next_reader(caplog: pytest.LogCaptureFixture) -> None:
    queues = Queues()
    link = await held(queues)
    await link.answer(1, hiredis.ReplyError("OOM no room"))
    assert "1 messages cannot be given back yet: OOM no room" in caplog.text
    assert await queues.take("jobs") == b"job"


async def test_a_script_that_was_forgotten_before_messages_are_given_back() -> None:
    queues = Queues()
    link = await held(queues)
    await link.answer(1, hiredis.ReplyError("NOSCRIPT No matching script"))
    assert stamped(b"job") in link.commands_asked[2]
    await link.answer(2, 1)
    assert len(link.asked) == 3


async def waiting(queues: Queues) -> tuple[ScriptedLink, asyncio.Task[bytes]]:
    """A life in which a reader's second call waits on the server."""
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    for number, reply in enumerate(([], [b"subscribe"], [b"subscribe"], [])):
        await link.answer(number, reply)
    return link, reader


async def test_only_the_push_for_the_call_that_waits_is_taken() -> None:
    queues = Queues()
    link, reader = await waiting(queues)
    for garbage in (b"", b"1 " + stamped(b"of an earlier call"), b"\xff\x00 " + stamped(b"x"), b"2"):
        link.push(garbage)
    link.push(b"2 " + stamped(b"job"))
    link.push(b"2 " + stamped(b"twice"))
    assert await reader == b"job"


async def test_what_comes_between_a_call_and_its_empty_answer_is_asked_for() -> None:
    queues = Queues()
    link, reader = await waiting(queues)
    assert link.wake is not None
    link.wake(b"")
    assert len(link.asked) == 5
    link.wake(b"")
    assert len(link.asked) == 5, "one call at a time"
    await link.answer(4, [])
    await link.answer(5, [stamped(b"job")])
    assert await reader == b"job"


async def test_a_call_that_waits_is_repeated_before_the_server_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = Queues()
    link, reader = await waiting(queues)
    queues.tidy()
    assert len(link.asked) == 4
    monkeypatch.setattr(redis_queues, "_CALL_AGAIN", -1.0)
    queues.tidy()
    queues.tidy()
    assert len(link.asked) == 5, "once, until it is answered"
    await link.answer(4, [stamped(b"job")])
    assert await reader == b"job"


async def test_a_call_whose_answer_was_lost_is_asked_for_again_under_its_number() -> None:
    queues = Queues()
    link = begin(queues)
    reader = asyncio.ensure_future(queues.take("jobs"))
    await asyncio.sleep(0)
    end(queues, link)
    with pytest.raises(ListenerClosed, match="broken"):
        await reader
    again = begin(queues)
    await again.answer(0, [stamped(b"job")])
    assert await queues.take("jobs") == b"job"
