"""One connection to a Redis server: commands out, replies and pushed messages in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from ...core.exceptions import ListenerClosed

# No set: what replies begin with need not be hashable.
PUSHED = (b"message", b"pmessage", b"smessage", b"sunsubscribe")

_COLLECT = cast("asyncio.Future[Any]", object())
_IGNORE = cast("asyncio.Future[Any]", object())

_LEFT = b"left"

OnPush = Callable[[list[bytes]], None]


def pack(*words: str | bytes | float) -> bytes:
    """A command as it goes over the wire."""
    return cast(bytes, hiredis.pack_command(cast("tuple[bytes]", words)))


_QUIT = pack("QUIT")


class Speaker(Protocol):
    """What takes commands: a `Wire`, or the way to one of several."""

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Send one packed command; the future gives its reply."""

    def tell(self, command: bytes) -> None:
        """Send one packed command whose reply is of no interest."""


class Listener(Speaker, Protocol):
    """A `Speaker` that subscribes."""

    def leave(self, command: bytes) -> asyncio.Future[Any]:
        """Send one packed ``SUNSUBSCRIBE``; the future is done when that is in effect."""


class Wire(asyncio.Protocol):
    """Sends what one turn of the event loop has to say in one write, and hands out the replies in their order.

    ``on_push`` is called with each message that the server pushes. Errors begin with ``address``.
    """

    def __init__(self, address: str, on_push: OnPush) -> None:
        self.paused = False
        self.silence = 0
        """How often in a row the watch has found that nothing came in."""
        self._address = address
        self.on_end: Callable[[str], None] = _nobody_cares
        """Called once, with the reason, when the connection has ended."""
        self.heard = True
        """Whether anything came in since this was last set to False."""
        self._loop = asyncio.get_running_loop()
        self._on_push = on_push
        reader = hiredis.Reader()
        self._feed = reader.feed
        self._next_reply = reader.gets
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._leaving: deque[asyncio.Future[Any]] = deque()
        """Those of `_waiting` that `leave` made."""
        self._collected: list[Any] = []
        self._outbox: list[bytes] = []
        self._flush_scheduled = False
        self._last_burst = 0
        self._ended: str | None = None
        self._transport: asyncio.Transport
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # ---- what the layer does ------------------------------------------------------------------------------------

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is gone and everything that came over it has been handed out."""
        return self._lost

    def ask(self, command: bytes, replies: int = 1) -> asyncio.Future[Any]:
        """Send packed commands. The future gives their reply, or the list of their replies.

        A refusal is a reply too: a `hiredis.ReplyError`. Raises `ListenerClosed` if the connection has ended, nothing
        was sent then; the future raises it if the connection ends before the reply. It may be cancelled.
        """
        self._check()
        future = self._loop.create_future()
        idle = not self._waiting
        if replies > 1:
            self._waiting.extend((_COLLECT,) * (replies - 1))
        self._waiting.append(future)
        self._send(command, idle)
        return future

    def tell(self, command: bytes) -> None:
        """Send one packed command whose reply is of no interest. Raises `ListenerClosed` as `ask` does."""
        self._check()
        idle = not self._waiting
        self._waiting.append(_IGNORE)
        self._send(command, idle)

    def leave(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed ``SUNSUBSCRIBE``; the future is done when the server has dealt with it.

        What the server says to it cannot be told from what it says unasked when a slot moves away, so it counts as
        pushed. A refusal is no answer either. That of a ``PING`` behind it is.
        """
        answer = self.ask(command + pack("PING", _LEFT))
        self._leaving.append(answer)
        return answer

    def pause(self) -> None:
        """Read no more until `resume`."""
        self.paused = True
        self._transport.pause_reading()

    def resume(self) -> None:
        """Undo `pause`."""
        self.paused = False
        if self._ended is None:
            self._transport.resume_reading()

    def end(self, reason: str) -> None:
        """Give the connection up: every outstanding reply and every later command raises `ListenerClosed`."""
        if self._ended is not None:
            return
        self._ended = reason = f"{self._address}: {reason}"
        for future in self._waiting:
            if future is not _COLLECT and future is not _IGNORE and not future.done():
                future.set_exception(ListenerClosed(reason))
                # Whoever was cancelled meanwhile will not fetch it.
                future.exception()
        self._waiting.clear()
        self._transport.abort()
        self.on_end(reason)

    def abort(self) -> None:
        """`end`, because we want it."""
        self.end("the connection was closed")

    async def close(self) -> None:
        """End the connection in peace: what was said is sent first, if the server takes it within a second."""
        self._flush()
        if self._ended is None:
            # Closing our end is not enough where a forked child has inherited it.
            self._transport.write(_QUIT)
        self._transport.close()
        await asyncio.wait([self._lost], timeout=1.0)
        self.abort()

    def _check(self) -> None:
        if self._ended is not None:
            raise ListenerClosed(self._ended)

    def _send(self, command: bytes, idle: bool) -> None:
        if self._flush_scheduled:
            self._outbox.append(command)
        elif idle and self._last_burst <= 1:
            # Nothing is on its way and nobody was in company lately: waiting for others would only cost time.
            self._transport.write(command)
        else:
            self._outbox.append(command)
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._last_burst = len(self._outbox)
        if self._outbox and self._ended is None:
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    # ---- what asyncio calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=2**30)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._feed(data)
        next_reply = self._next_reply
        try:
            while (reply := next_reply()) is not False:
                if reply.__class__ is list and reply and reply[0] in PUSHED:
                    self._on_push(reply)
                else:
                    self._answer(reply)
        except hiredis.ProtocolError as error:
            self.end(f"what it sends is not Redis' protocol ({error})")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set_result(None)
        self.end(f"the connection was lost ({error})" if error else "the server closed the connection")

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            raise hiredis.ProtocolError(f"{reply!r}, unasked")
        if self._leaving and self._leaving[0] is self._waiting[0]:
            if reply not in (_LEFT, [b"pong", _LEFT]):
                return
            self._leaving.popleft()
        future = self._waiting.popleft()
        if future is _COLLECT:
            self._collected.append(reply)
        elif future is not _IGNORE:
            if self._collected:
                reply = [*self._collected, reply]
                self._collected.clear()
            if not future.done():
                future.set_result(reply)


def _nobody_cares(reason: str) -> None:
    """Until somebody does."""
