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

from ...hub.subscriber import Subscriber
from ..messages.group_message import with_position
from ..messages.ready_frames import FRAME
from .direct_sends import DirectSends, Rest
from .internals import CHANNEL, CLIENT, Receive, calling_loop, jobs_of_worker
from .turns import Turns

AT_ONCE = 32
"""How many messages of the channel are handled at most before the client's next one."""


Handle = Callable[[Any], Awaitable[None]]


class Inbox:
    """The messages that wait for a consumer."""

    __slots__ = ("frames", "from_client", "mailbox", "notifier", "put_frame", "turns")

    def __init__(self, mailbox: Subscriber, turns: Turns) -> None:
        self.read(mailbox)
        self.turns = turns
        self.from_client: asyncio.Queue[Any] | None = None
        """What the client has sent, where its messages need not be awaited one by one."""
        self.frames: list[dict[str, Any]] = []
        """Ready frames as ASGI sends them, which came before what is in the mailbox."""
        self.put_frame: Callable[[dict[str, Any]], bool] | None = None
        """Adds to ``frames`` if the consumer waits and will send them itself; returns whether it does."""

    def read(self, mailbox: Subscriber) -> None:
        """Read this mailbox from now on."""
        self.mailbox = mailbox
        self.notifier = mailbox.notifier
        """Notifies when there may be a message."""

    def take(self) -> Any:
        """Return the next message if there is one, else None."""
        if self.from_client is not None and not self.from_client.empty():
            return self.from_client.get_nowait()
        if self.frames:
            return {**self.frames.pop(0), "type": FRAME}
        found = self.mailbox.take()
        if found is None:
            return None
        return found[1] if found[0].position is None else with_position(*found)


class ConsumerLoop:
    """Takes the place of the ``dispatch`` of a consumer: it handles each message of the client and of ``inbox``.

    While the consumer waits, this is what the mailbox notifies.
    """

    __slots__ = (
        "_asks",
        "_begun",
        "_consumer",
        "_direct",
        "_handle",
        "_has_message",
        "_sends_frames",
        "_waiter",
        "inbox",
    )

    def __init__(self, consumer: AsyncConsumer, handle: Handle, inbox: Inbox, *, sends_frames: bool = False) -> None:
        """With ``sends_frames`` ready frames are sent to the client while the consumer waits."""
        self._consumer = weakref.ref(consumer)
        self._handle = handle
        self.inbox = inbox
        self._waiter: asyncio.Future[None] | None = None
        self._asks = False
        """Whether it has asked for a turn."""
        self._has_message = False
        """Whether the mailbox has a message since it waits."""
        self._sends_frames = sends_frames
        self._direct: DirectSends | None = None
        self._begun: Rest | None = None
        """The rest of a send that could not end at once."""

    async def __call__(self, message: Any) -> None:
        loop = calling_loop(self._consumer())
        if loop is not None:
            self.inbox.from_client = jobs_of_worker(self._consumer(), loop.receive, message)
        await self._handle(message)
        if loop is not None:  # else another caller wants no more than this
            try:
                await self._run(loop.receive, loop.tasks, loop.position)
            finally:
                # They refer to this, and to the server's part of the connection, which would outlive the consumer.
                self.inbox.put_frame = self._direct = None

    async def _run(self, receive: Receive, tasks: list[asyncio.Future[Any]], position: int) -> None:
        """Handle messages until one of them raises. Channels' loop ends the ``tasks`` then."""
        if position == CLIENT:
            if tasks[CHANNEL].done():
                await self._handle(tasks[CHANNEL].result())
            tasks[CLIENT] = asyncio.ensure_future(receive())
        tasks[CHANNEL].cancel()
        client = tasks[CLIENT]
        client.add_done_callback(self._wake)
        if self._sends_frames:
            consumer: Any = self._consumer()
            self._direct = await DirectSends.of_this_task(consumer.base_send)
            self.inbox.put_frame = self._put_frame
        handle, take, at_once = self._handle, self.inbox.take, range(AT_ONCE)
        notifier, new_waiter = self.inbox.notifier, client.get_loop().create_future
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
            self._has_message = False
            notifier.add(self)
            try:
                await waiter
            except BaseException as error:
                notifier.cancel(self)
                if self._begun is None:
                    raise
                self._begun.interrupt(error)
            notifier.notify()  # another reader: this one may handle something else than a message first, and end
            if self._begun is not None:
                begun, self._begun = self._begun, None
                await begun

    def done(self) -> bool:
        """Return whether the consumer does not wait: for its `Notifier`."""
        return self._waiter is None or self._waiter.done()

    def set_result(self, result: None) -> None:
        """Have the consumer take its message in its turn: for its `Notifier`."""
        self._has_message = True
        if not self._asks:
            self._asks = True
            self.inbox.turns.ask(self._turn)

    def _put_frame(self, frame: dict[str, Any]) -> bool:
        if self.done() or self._has_message or len(self.inbox.frames) >= AT_ONCE:
            return False
        self.inbox.frames.append(frame)
        if not self._asks:
            self._asks = True
            self.inbox.turns.ask_later(self._turn)
        return True

    def _turn(self) -> None:
        """Send the ready frames that wait, and wake the consumer if there is more."""
        frames = self.inbox.frames
        if frames and self._direct is not None and not self.done():
            self._begun = self._direct.send(frames)
        self._asks = False  # not before: what a send sends to its own consumer comes behind
        if self._has_message or self._begun is not None or frames:
            self._wake()

    def _wake(self, *client: object) -> None:
        """Wake the consumer if it waits; a callback of ``client``, too."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if not self._has_message:
                self.inbox.notifier.cancel(self)  # where it would stay until the next message
            waiter.set_result(None)
