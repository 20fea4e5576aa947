"""One life of the layer, from connect to disconnect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import hiredis

from ..event import Event
from ..exceptions import ListenerClosed
from .redis_address import Address
from .redis_presence import Presence
from .redis_queues import Queues
from .redis_scripts import look_up_bindings
from .redis_server import Server
from .redis_subscriptions import Subscriptions
from .redis_wire import Wire, pack

_KEYS_AT_ONCE = 1000


class Life:
    """One server, what is subscribed there, and the readers of queues as long as it lasts."""

    publish_verb = "PUBLISH"

    def __init__(
        self,
        address: Address,
        probe_interval: float,
        queues: Queues,
        presence: Presence,
        left_over: list[Event[bytes]],
    ) -> None:
        """``left_over`` are events of the life before."""
        self.error: ListenerClosed | None = ListenerClosed(f"{address} is not connected yet")
        """Why it has not begun, or is over."""
        self.presence = presence
        self.subscriptions = Subscriptions(lambda name: self._server.listener, left_over)
        self._server = Server(address, probe_interval, self.subscriptions.receive)
        self._address = address
        self._queues = queues
        self._opening = anyio.CancelScope()
        self._open = False

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`, also if `close` is called meanwhile."""
        try:
            with self._opening:
                await self._server.open(self._end, self.subscriptions.end)
                self._begin()
            if not self._open:
                raise ListenerClosed(f"{self._address} was disconnected while it connected")
        except ListenerClosed as error:
            self.subscriptions.end(error)
            raise

    def _begin(self) -> None:
        self.error = None
        self._open = True
        self._queues.begin(self)
        self.presence.begin(self._server.commands, self.subscriptions)
        self.subscriptions.on_confirmed = self.presence.subscribed
        self._server.on_probe = self._tidy

    async def close(self, error: ListenerClosed) -> list[Event[bytes]]:
        """End it, in peace if it was alive. Returns what came before it broke and was not fetched."""
        if not self._open:
            self._opening.cancel()
            self.subscriptions.end(error)
            return self.subscriptions.left_over()
        if self.error is None:
            self.error = error
            self.presence.end()
            self.subscriptions.end(error)
            await self._queues.leave(error)
            await self._server.close()
            return []
        await self._server.last_words()
        return self.subscriptions.left_over()

    def _end(self, error: ListenerClosed) -> None:
        self.error = error
        self.presence.end()
        self._queues.end(error)

    def _tidy(self) -> None:
        self.presence.count()
        self._queues.tidy()

    def commands(self, key: bytes) -> Wire:
        """The wire for the commands about a key."""
        return self._server.commands

    async def ask(self, about: bytes, *command: bytes | str | int) -> Any:
        """Send one command about a key and return its reply. Raises what the server refuses."""
        reply = await self.commands(about).ask(pack(*command))
        if isinstance(reply, hiredis.ReplyError):
            raise self.refusal(reply)
        return reply

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""
        return self._server.refusal(reply)

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """The bindings of a group, and how many nodes heard a message to it."""
        look_up_and_publish = look_up_bindings(name) + pack("PUBLISH", name, message)
        bound, reached = await self._server.commands.ask(look_up_and_publish, replies=2)
        return bound, reached

    async def keys(self, start: bytes) -> list[bytes]:
        """The keys of queues, and of what belongs to them, that begin with ``start``."""
        return await scan(self._server.commands, start, self.refusal)


async def scan(wire: Wire, start: bytes, refusal: Callable[[hiredis.ReplyError], Exception]) -> list[bytes]:
    """The keys of one server that begin so, with a brace before it or none. Raises what the server refuses."""
    literal = b"".join(b"\\" + letter if letter in _SPECIAL else letter for letter in _letters(start))
    found: list[bytes] = []
    for pattern in (literal + b"*", b"{" + literal + b"*"):
        for kind in ("list", "set"):
            cursor = b"0"
            while True:
                reply = await wire.ask(pack("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_AT_ONCE, "TYPE", kind))
                if isinstance(reply, hiredis.ReplyError):
                    raise refusal(reply)
                cursor, keys = reply
                found.extend(keys)
                if cursor == b"0":
                    break
    return found


_SPECIAL = frozenset(_letter.to_bytes(1, "big") for _letter in b"*?[]\\^-")


def _letters(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]
