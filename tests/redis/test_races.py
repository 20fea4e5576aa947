"""Readers of queues at moments that no server can be made to meet: what a wire says is scripted here."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from django_anyio_channels import ListenerClosed
from django_anyio_channels.layers.redis_queues import Link, Queues
from django_anyio_channels.layers.redis_scripts import STAMP

from .conftest import becomes_true

pytestmark = pytest.mark.anyio


class ScriptedLink:
    """One life of a server that answers when the test says so."""

    publish_verb = "PUBLISH"

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []
        self.commands_asked: list[bytes] = []
        self.subscriptions = self

    def commands(self, key: bytes) -> ScriptedLink:
        return self

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        self.commands_asked.append(command)
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def signal(self, name: bytes, callback: object) -> asyncio.Future[Any]:
        return self.ask(name)


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
    return b"9" * STAMP + message


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
