"""What a consumer's client and its channel have for it, in turn: Channels' loop without its tasks.

Channels' loop (``channels.utils.await_many_dispatch``) makes a task of each message that it waits for, and another wait
of each message that comes. It gives the first message to the consumer's ``dispatch``; there this loop takes over, in
the same task. An exception ends both.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from channels.consumer import AsyncConsumer

from .consumers import CHANNEL, CLIENT, Receive, calling_loop

AT_ONCE = 32
"""How many messages of the channel are handled at most before the client's next one."""


class Inbox(Protocol):
    """The messages of one channel."""

    def take(self) -> Any:
        """Return the next message if there is one, else None."""

    def add_waiter(self, waiter: asyncio.Future[None], /) -> None:
        """Have the result of ``waiter`` set when there may be a message."""

    def cancel_waiter(self, waiter: asyncio.Future[None], /) -> None:
        """Undo `add_waiter`; another one that waits is notified instead."""


Handle = Callable[[Any], Awaitable[None]]


class ConsumerLoop:
    """Takes the place of the ``dispatch`` of a consumer: it handles each message of the client and of ``inbox``."""

    __slots__ = ("_consumer", "_handle", "_inbox", "_waiter")

    def __init__(self, consumer: AsyncConsumer, handle: Handle, inbox: Inbox) -> None:
        self._consumer = weakref.ref(consumer)
        self._handle = handle
        self._inbox = inbox
        self._waiter: asyncio.Future[None] | None = None

    async def __call__(self, message: Any) -> None:
        loop = calling_loop(self._consumer())
        await self._handle(message)
        if loop is not None:  # else another caller wants no more than this
            await self._run(loop.receive, loop.tasks, loop.position)

    async def _run(self, receive: Receive, tasks: list[asyncio.Future[Any]], position: int) -> None:
        """Handle messages until one of them raises. Channels' loop ends the ``tasks`` then."""
        if position == CLIENT:
            if tasks[CHANNEL].done():
                await self._handle(tasks[CHANNEL].result())
            tasks[CLIENT] = asyncio.ensure_future(receive())
        tasks[CHANNEL].cancel()
        client = tasks[CLIENT]
        client.add_done_callback(self._wake)
        handle, inbox, at_once = self._handle, self._inbox, range(AT_ONCE)
        while True:
            if client.done():
                await handle(client.result())
                client = tasks[CLIENT] = asyncio.ensure_future(receive())
                client.add_done_callback(self._wake)
            for _ in at_once:
                message = inbox.take()
                if message is None:
                    await self._wait(client)
                    break
                await handle(message)
                if client.done():
                    break
            else:
                await asyncio.sleep(0)

    async def _wait(self, client: asyncio.Future[Any]) -> None:
        """Wait for the client, or for a message in the inbox."""
        if client.done():
            return
        self._waiter = waiter = client.get_loop().create_future()
        self._inbox.add_waiter(waiter)
        try:
            await waiter
        except BaseException:
            self._inbox.cancel_waiter(waiter)
            raise
        if client.done():
            self._inbox.cancel_waiter(waiter)

    def _wake(self, client: asyncio.Future[Any]) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
