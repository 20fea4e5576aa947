"""One life of the layer, from connect to disconnect, and that of one with a single server."""

from __future__ import annotations

from typing import Any, Protocol

import anyio
import hiredis

from ...core.events import Event
from ...core.exceptions import ListenerClosed
from .address import Address
from .connection import Speaker, Wire, pack
from .peers import Presence
from .queues import Queues
from .scripts import is_about, look_up_bindings
from .server import Server
from .subscriptions import Subscriptions

_KEYS_AT_ONCE = 1000


class Room(Protocol):
    """What `RedisPubSubChannelLayer` needs of `Presence`."""

    @property
    def missing(self) -> bool:
        """Whether nodes may still be on their way back."""

    async def everybody(self) -> None:
        """Wait until those who were there before are back."""


class Life(Protocol):
    """One life of the layer, whatever serves it."""

    error: ListenerClosed | None
    """Why it has not begun, or is over."""

    subscriptions: Subscriptions
    publish_verb: str

    @property
    def presence(self) -> Room:
        """Who else is there."""

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`, also if `close` is called meanwhile."""

    async def close(self, error: ListenerClosed) -> list[Event[bytes]]:
        """End it, in peace if it was alive. Returns what came before it broke and was not fetched."""

    def give_up(self, error: ListenerClosed) -> None:
        """End it at once; nothing more is to be had."""

    def commands(self, key: bytes) -> Speaker:
        """The wire for the commands about a key."""

    async def ask(self, about: bytes, *command: bytes | str | int) -> Any:
        """Send one command about a key and return its reply. Raises what the server refuses."""

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """Publish; returns the `bindings` of the group, and how many nodes heard it. Both may be refusals."""

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""

    def outwaits(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """Whether the reason of a refusal passes by itself: readers ask again at once, and the log says so."""

    async def keys(self, start: bytes, *kinds: str) -> list[bytes]:
        """The keys that begin with ``start``, or belong to something that does, and hold one of these types."""


class ServerLife:
    """One server, what is subscribed there, and the readers of queues as long as it lasts."""

    publish_verb = "PUBLISH"

    def __init__(
        self,
        address: Address,
        probe_interval: float,
        queues: Queues,
        presence: Presence,
        unconsumed: list[Event[bytes]],
    ) -> None:
        """``unconsumed`` are events of the life before."""
        self.error: ListenerClosed | None = ListenerClosed(f"{address} is not connected yet")
        self.presence = presence
        self.subscriptions = Subscriptions(lambda name: self._server.listener, unconsumed)
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
            return self.subscriptions.arrivals.unconsumed()
        if self.error is None:
            self.error = error
            self.presence.end()
            self.subscriptions.end(error)
            await self._queues.leave(error)
            await self._server.close()
            return []
        await self._server.last_words()
        return self.subscriptions.arrivals.unconsumed()

    def _end(self, error: ListenerClosed) -> None:
        self.error = error
        self.presence.end()
        self._queues.end(error)

    def _tidy(self) -> None:
        self.presence.count()
        self._queues.tidy()

    def give_up(self, error: ListenerClosed) -> None:
        """End it at once; nothing more is to be had."""
        self._server.commands.end(str(error))

    def commands(self, key: bytes) -> Wire:
        """The wire for the commands about a key."""
        return self._server.commands

    async def ask(self, about: bytes, *command: bytes | str | int) -> Any:
        """Send one command about a key and return its reply. Raises what the server refuses."""
        return checked(self, await self.commands(about).ask(pack(*command)))

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """As `Life.publish`."""
        look_up_and_publish = look_up_bindings(name) + pack("PUBLISH", name, message)
        bound, reached = await self._server.commands.ask(look_up_and_publish, replies=2)
        return bound, reached

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""
        return self._server.refusal(reply)

    def outwaits(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """As `Life.outwaits`."""
        return False

    async def keys(self, start: bytes, *kinds: str) -> list[bytes]:
        """As `Life.keys`."""
        return await scan(self, self._server.commands, start, *kinds)


def checked(life: Life, reply: Any) -> Any:
    """The reply, if it is no refusal; else that is raised."""
    if isinstance(reply, hiredis.ReplyError):
        raise life.refusal(reply)
    return reply


async def scan(life: Life, wire: Wire, start: bytes, *kinds: str) -> list[bytes]:
    """`Life.keys` of one server."""
    literal = b"".join(b"\\" + letter if letter in _SPECIAL else letter for letter in _letters(start))
    found: list[bytes] = []
    for kind in kinds:
        cursor = b"0"
        while True:
            command = pack("SCAN", cursor, "MATCH", b"*%b*" % literal, "COUNT", _KEYS_AT_ONCE, "TYPE", kind)
            cursor, keys = checked(life, await wire.ask(command))
            found.extend(key for key in keys if is_about(key, start))
            if cursor == b"0":
                break
    return found


_SPECIAL = frozenset(_letter.to_bytes(1, "big") for _letter in b"*?[]\\^-")


def _letters(text: bytes) -> list[bytes]:
    return [text[index : index + 1] for index in range(len(text))]
