"""What a consumer's client and its channel have for it, in turn: Channels' loop without its tasks.

Channels' loop (``channels.utils.await_many_dispatch``) makes a task of each message that it waits for, and another wait
of each message that comes. It gives the first message to the consumer's ``dispatch``; there this loop takes over, in
the same task. An exception ends both.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from channels.consumer import AsyncConsumer

from ..core.events import Event
from ..hub.subscriber import Subscriber
from .consumers import CHANNEL, CLIENT, Receive, calling_loop, jobs_of_worker

AT_ONCE = 32
"""How many messages of the channel are handled at most before the client's next one."""


Handle = Callable[[Any], Awaitable[None]]


class Inbox:
    """The messages that wait for a consumer."""

    __slots__ = ("_mailbox", "_with_position", "from_client", "notifier")

    def __init__(self, mailbox: Subscriber, with_position: Callable[[Event[bytes], Any], Any]) -> None:
        self._mailbox = mailbox
        self._with_position = with_position
        self.notifier = mailbox.notifier
        """Notifies when there may be a message."""
        self.from_client: asyncio.Queue[Any] | None = None
        """What the client has sent, where its messages need not be awaited one by one."""

    def take(self) -> Any:
        """Return the next message if there is one, else None."""
        if self.from_client is not None and not self.from_client.empty():
            return self.from_client.get_nowait()
        found = self._mailbox.take()
        if found is None:
            return None
        return found[1] if found[0].position is None else self._with_position(*found)


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
            self._inbox.from_client = jobs_of_worker(self._consumer(), loop.receive, message)
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
        handle, take, at_once = self._handle, self._inbox.take, range(AT_ONCE)
        notifier, new_waiter = self._inbox.notifier, client.get_loop().create_future
        while True:
            if client.done():
                await handle(client.result())
                client = tasks[CLIENT] = asyncio.ensure_future(receive())
                client.add_done_callback(self._wake)
            for _ in at_once:
                message = take()
                if message is None:
                    break
                await handle(message)
                if client.done():
                    break
            else:
                await asyncio.sleep(0)
                continue
            if client.done():
                continue
            # A coroutine of its own would cost each message a tenth of its time.
            self._waiter = waiter = new_waiter()
            notifier.add(waiter)
            try:
                await waiter
            except BaseException:
                notifier.cancel(waiter)
                raise
            if client.done():
                notifier.cancel(waiter)

    def _wake(self, client: asyncio.Future[Any]) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
