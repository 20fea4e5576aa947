"""One connection to a Redis server: commands out, replies and pushed messages in.

redis-py's connections were measured against it, one message off the socket: ``get_message`` 12 us, ``listen`` 7 us,
`hiredis.Reader` in an asyncio protocol 0.7 to 1.0 us. ``PUBLISH``: 78 us one at a time and 12 us in pipelines of 64
there, 8 to 10 us here.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import anyio
import hiredis

from ...core.exceptions import ListenerClosed
from ..common.lookups import keep_lookups_working
from ..common.waiters import fail
from ..common.watchdog import Watchdog
from .address import Address
from .packets import CommandExecutor, encode_command

# No set: what replies begin with need not be hashable.
_PUSHED = (b"message", b"pmessage", b"smessage", b"sunsubscribe")

_COLLECT = cast("asyncio.Future[Any]", object())

_TICKS = 5
_PROBE_AFTER = 2
"""Ticks of silence: a probe in 0.6 of a probe interval, where each costs money."""

_UNSUBSCRIBED = b"unsubscribed"
_QUIT = encode_command("QUIT")


class PubSubConnection(CommandExecutor, Protocol):
    """A `CommandExecutor` that subscribes."""

    def sunsubscribe(self, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded ``SUNSUBSCRIBE``; the future is done when that is in effect."""


class ConnectionObserver(Protocol):
    """What a connection reports to."""

    def received_push(self, push: list[bytes], connection: Connection) -> None:
        """Called with each message that the server pushes."""

    def connection_ended(self, connection: Connection, reason: str) -> None:
        """Called once, when no more commands are possible."""


class Connection(asyncio.Protocol):
    """Sends the commands of one turn of the event loop in one write, and hands out the replies in their order."""

    def __init__(self, address: str, observer: ConnectionObserver | None = None, *, subscribes: bool = False) -> None:
        """Errors begin with ``address``. Only a connection that ``subscribes`` has an observer of pushes.

        On any other one a reply may begin like a push, for example with the name of a queue.
        """
        self.executed = 0
        """How many commands were sent."""
        self._address = address
        self._observer = observer
        self._push_observer = observer if subscribes else None
        self._loop = asyncio.get_running_loop()
        reader = hiredis.Reader()
        self._feed = reader.feed
        self._next_reply = reader.gets
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsubscribing: deque[asyncio.Future[Any]] = deque()
        """Those of `_waiting` that `sunsubscribe` made."""
        self._collected: list[Any] = []
        self._outbox: list[bytes] = []
        self._flush_scheduled = False
        self._last_burst = 0
        self._ended: str | None = None
        self._watchdog = Watchdog(math.inf, self.abort, self.end)
        self._transport: asyncio.Transport
        self._abandoned = False
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed and everything that came over it was handed out."""

    def execute(self, command: bytes, replies: int = 1) -> asyncio.Future[Any]:
        """Send encoded commands. The future gives their reply, or the list of their replies.

        An error reply is a `hiredis.ReplyError`. Raises `ListenerClosed` if the connection has ended, nothing was sent
        then; the future raises it if the connection ends before the reply. It may be cancelled.
        """
        self.require_open()
        future = self._loop.create_future()
        idle = not self._waiting
        if replies > 1:
            self._waiting.extend((_COLLECT,) * (replies - 1))
        self._waiting.append(future)
        self._write(command, idle)
        return future

    def sunsubscribe(self, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded ``SUNSUBSCRIBE``; the future is done when the server has dealt with it.

        Its reply looks like the ``sunsubscribe`` that a server pushes when a slot moves away, so it counts as pushed,
        and an error reply is no answer either. The reply to a ``PING`` behind it is.
        """
        answer = self.execute(command + encode_command("PING", _UNSUBSCRIBED))
        self._unsubscribing.append(answer)
        return answer

    def watch(self, probe_interval: float, probe: Callable[[], object]) -> None:
        """End the connection when the server is silent for ``probe_interval`` seconds; see `Watchdog`."""
        self._watchdog = Watchdog(probe_interval, probe, self.end, ticks=_TICKS, probe_after=_PROBE_AFTER)
        self._watchdog.start()

    def unwatch(self) -> None:
        """Undo `watch`."""
        self._watchdog.stop()

    def pause(self) -> None:
        """Read no more until `resume`. Meanwhile silence says nothing about the server."""
        self._transport.pause_reading()
        self._watchdog.stop()

    def resume(self) -> None:
        """Undo `pause`."""
        if self._ended is None:
            self._transport.resume_reading()
            self._watchdog.received = True
            self._watchdog.start()

    def end(self, reason: str) -> None:
        """Drop the connection: every outstanding reply and every later command raises `ListenerClosed`."""
        if self._ended is not None:
            return
        self._ended = reason = f"{self._address}: {reason.removeprefix(f'{self._address}: ')}"
        for future in self._waiting:
            if future is not _COLLECT:
                fail(future, ListenerClosed(reason))
        self._waiting.clear()
        self._watchdog.stop()
        self._transport.abort()
        if self._observer is not None:
            self._observer.connection_ended(self, reason)

    def abort(self) -> None:
        """Drop the connection because it is not needed any more."""
        self.end("the connection was closed")

    def abandon(self) -> None:
        """`abort` when connecting was cancelled: uvloop opens the connection nevertheless, if not at once."""
        self._abandoned = True
        if hasattr(self, "_transport"):
            self.abort()

    async def close(self) -> None:
        """Close the connection gracefully: what is not sent yet is sent, if the server takes it within a second."""
        self._flush()
        if self._ended is None:
            # Closing our end is not enough where a forked child has inherited it.
            self._transport.write(_QUIT)
            self._transport.close()
        await asyncio.wait([self.lost], timeout=1.0)
        self.abort()

    def require_open(self) -> None:
        """Raise `ListenerClosed` if the connection has ended."""
        if self._ended is not None:
            raise ListenerClosed(self._ended)

    def _write(self, command: bytes, idle: bool) -> None:
        self.executed += 1
        if self._flush_scheduled:
            self._outbox.append(command)
        elif idle and self._last_burst <= 1:
            # No reply is outstanding and the last write was one command: collecting would only cost time.
            self._transport.write(command)
        else:
            self._outbox.append(command)
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._last_burst = len(self._outbox)
        if self._ended is None:  # uvloop raises what asyncio ignores
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    # ---- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._abandoned:
            self.abort()
        self._transport.set_write_buffer_limits(high=2**30)

    def data_received(self, data: bytes) -> None:
        self._watchdog.received = True
        self._feed(data)
        next_reply, observer = self._next_reply, self._push_observer
        try:
            while (reply := next_reply()) is not False:
                if observer is not None and reply.__class__ is list and reply and reply[0] in _PUSHED:
                    observer.received_push(reply, self)
                else:
                    self._received_reply(reply)
        except hiredis.ProtocolError as error:
            self.end(f"what it sends is not Redis' protocol ({error})")

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)
        reason = f"the connection was lost ({error})" if error else "the server closed the connection"
        # A server that wants no more clients replies to the first command only.
        refusals = (str(reply) for reply in self._collected if isinstance(reply, hiredis.ReplyError))
        self.end(next(refusals, reason))

    def _received_reply(self, reply: Any) -> None:
        if not self._waiting:
            if isinstance(reply, hiredis.ReplyError):  # such as that there are too many clients
                self.end(str(reply))
                return
            raise hiredis.ProtocolError(f"{reply!r}, unasked")
        if self._unsubscribing and self._unsubscribing[0] is self._waiting[0]:
            if reply not in (_UNSUBSCRIBED, [b"pong", _UNSUBSCRIBED]):
                return
            self._unsubscribing.popleft()
        future = self._waiting.popleft()
        if future is _COLLECT:
            self._collected.append(reply)
            return
        if self._collected:
            reply = [*self._collected, reply]
            self._collected.clear()
        if not future.done():
            future.set_result(reply)


async def open_connection(
    address: Address, *commands: bytes, observer: ConnectionObserver | None = None, subscribes: bool = False
) -> tuple[Connection, list[Any]]:
    """Connect, log in and execute encoded commands, once; return the connection and the replies to the commands.

    There is one command at least. Raises `ListenerClosed` naming the address and the cure, and leaves nothing open.
    """
    opened: list[Connection] = []
    try:
        with anyio.fail_after(address.timeout):
            opened.append(await _connect(address, observer, subscribes))
            replies = await _log_in(opened[0], address, commands)
    except BaseException as error:
        for connection in opened:
            connection.abort()
        if isinstance(error, Exception):
            # `from None`: the frames of the login hold the password, and whoever reports an error may show them.
            raise ListenerClosed(address.explain(error)) from None
        raise
    return opened[0], replies


async def _log_in(connection: Connection, address: Address, commands: tuple[bytes, ...]) -> list[Any]:
    login = await address.login_commands()
    # In one write: a server that wants no more clients says so and closes; a second write would only fail.
    replies: list[Any] = await connection.execute(b"".join((*login, *commands)), len(login) + len(commands))
    for reply in replies[: len(login)]:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOPERM"):
            raise ListenerClosed(str(reply))
    return replies[len(login) :]


async def _connect(address: Address, observer: ConnectionObserver | None, subscribes: bool) -> Connection:
    loop = asyncio.get_running_loop()
    keep_lookups_working()
    attempts: list[Connection] = []

    def connection() -> Connection:
        attempts.append(Connection(str(address), observer, subscribes=subscribes))
        return attempts[-1]

    try:
        if address.path is not None:
            return (await loop.create_unix_connection(connection, address.path))[1]
        transport, made = await loop.create_connection(connection, address.host, address.port, ssl=address.ssl_context)
    except BaseException:
        for attempt in attempts:
            attempt.abandon()
        raise
    if address.keepalive is not None:
        keep = transport.get_extra_info("socket")
        keep.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in address.keepalive.items():
            keep.setsockopt(socket.SOL_TCP, option, value)
    return made
