"""What one session is subscribed to (``SUBSCRIBE``, ``PSUBSCRIBE``, ``SSUBSCRIBE``), and the events that come of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import hiredis

from ...core.events import Event, Gap
from ...core.exceptions import ListenerClosed, NotSupported, SubscriptionRefused
from ...core.layer import subscribing
from ..common.event_stream import EventStream
from .connection import Connection, PubSubConnection
from .keys import NODES
from .packets import CommandExecutor, encode_command, permission_cure, without_full_stop

_PAUSE_AT = 10_000
"""Events that wait for the hub before no more are read: the server keeps the rest, up to its own limit."""

_TAGGED = re.compile(rb"@[0-9]+@")

_MOST_SUBSCRIBERS = 100_000
"""Valkey 9.1 replies to ``PUBSUB NUMSUB`` with a random large number where 8, 15, 16, ... connections subscribe."""

Names = dict[bytes, "Name"]


class SubscriptionObserver(Protocol):
    """What a layer does with messages itself."""

    def on_message(self, channel: str, pattern: str | None, message: bytes) -> None:
        """Make events of a message of a channel, and of the pattern by which it was found."""

    def on_gap(self, channel: str, seconds: float) -> bool:
        """Called when something may have been missed. Return False to have the subscribers get a `Gap`."""

    def on_end(self, error: ListenerClosed) -> None:
        """Called when no more messages will come."""


class SubscribedSession(Protocol):
    """What queues and peers need of a session."""

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def publish_command(self) -> str:
        """``PUBLISH`` or ``SPUBLISH``."""

    def executor(self, key: bytes) -> CommandExecutor:
        """Return what executes the commands about a key."""

    def translate_error(self, reply: hiredis.ReplyError) -> Exception:
        """Return the exception for an error reply."""

    def is_transient(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """Return True for a transient error (such as a slot migration); the caller retries."""


def count_subscribers(session: SubscribedSession, channel: bytes) -> asyncio.Future[Any]:
    """Ask how many connections subscribe to a channel by its exact name; read the reply with `number_of`.

    ``PUBLISH`` returns another number: it counts the subscribers of patterns, such as a monitor.
    """
    sharded = "SHARD" if session.publish_command == "SPUBLISH" else ""
    name = session.subscriptions.wire_name(channel)
    return session.executor(channel).execute(encode_command("PUBSUB", f"{sharded}NUMSUB", name))


def number_of(reply: Any) -> int | None:
    """Return the number that a server has counted; 0 for an error, None if it cannot count so many."""
    count = reply[1] if isinstance(reply, list) else reply
    if not isinstance(count, int):
        return 0
    return count if count <= _MOST_SUBSCRIBERS else None


class Name:
    """One channel or pattern of the wire."""

    __slots__ = ("confirmed", "owners", "text")

    def __init__(self, text: str, confirmed: asyncio.Future[Any]) -> None:
        """``confirmed`` gives the server's reply."""
        self.text: str = text
        self.owners: dict[str | None, None] = {}
        """The names that the hub knows it by; None stands for its own."""
        self.confirmed: asyncio.Future[Any] = confirmed


class Subscriptions:
    """The channels and patterns of one session, and its events.

    A custom layer's ``subscribe`` may take one name of the hub apart and subscribe to several here: their events are
    marked with the hub's name, and a name of the wire is unsubscribed when its last owner is gone.

    Redis' channels know no databases. The names of other databases than 0 are tagged on the wire.
    """

    def __init__(
        self,
        pubsub: Callable[[bytes], PubSubConnection],
        confirmed: Callable[[bool, bytes], None],
        observer: SubscriptionObserver | None = None,
        unconsumed: Iterable[Event[bytes]] = (),
        *,
        sharded: bool = False,
        database: int = 0,
    ) -> None:
        """``pubsub`` returns the connection for a name of the wire, and ``confirmed`` is called with each name that the
        server has answered for, True for a pattern. ``unconsumed`` are the events to begin with.
        """
        self._pubsub = pubsub
        self._report_confirmed = confirmed
        self._observer = observer
        self._sharded = sharded
        self.tag: bytes = b"@%d@" % database if database else b""
        """What each name begins with on the wire."""
        letter = "S" if sharded else ""
        self._commands = (f"{letter}SUBSCRIBE", f"{letter}UNSUBSCRIBE"), ("PSUBSCRIBE", "PUNSUBSCRIBE")
        self._names: tuple[Names, Names] = {}, {}
        self._channels, self._patterns = self._names
        self._watched: dict[bytes, Callable[[bytes], None]] = {}
        self.events: EventStream = EventStream(unconsumed)
        self._paused: list[Connection] = []

    # ---- what a layer's subscribe may call ----------------------------------------------------------------------

    async def subscribe(self, *names: str) -> None:
        """Subscribe to channels; returns when the server has confirmed them all. Raises `SubscriptionRefused`."""
        await self._add(False, names)

    async def unsubscribe(self, *names: str) -> None:
        """Undo `subscribe`; what is not subscribed to is no error."""
        await self._remove(False, names)

    async def psubscribe(self, *patterns: str) -> None:
        """Subscribe to every channel that matches a glob (``*``, ``?``, ``[...]``)."""
        self._require_patterns()
        await self._add(True, patterns)

    async def punsubscribe(self, *patterns: str) -> None:
        """Undo `psubscribe`."""
        self._require_patterns()
        await self._remove(True, patterns)

    def _require_patterns(self) -> None:
        if self._sharded:
            raise NotSupported(
                "Redis Cluster does not support patterns, as groups are spread over its masters; "
                "subscribe to each group by its name"
            )

    # ---- the session --------------------------------------------------------------------------------------------

    def wire_name(self, name: bytes) -> bytes:
        """Return what a channel is called on the wire."""
        return self.tag + name

    async def next_event(self) -> Event[bytes]:
        """Wait for the next event. Raises `ListenerClosed` once those that came before the end are handed out."""
        event = await self.events.next()
        if self._paused and len(self.events.queued) < _PAUSE_AT // 2:
            for connection in self._paused:
                connection.resume()
            self._paused.clear()
        return event

    def receive(self, push: list[bytes], connection: Connection) -> None:
        """Make events of a pushed message."""
        pattern = None
        if push[0] == b"pmessage":
            found = self._patterns.get(push[1])
            name = push[2].removeprefix(self.tag)
            if found is None or name.startswith(NODES) or (not self.tag and _TAGGED.match(name)):
                return  # the pattern was unsubscribed meanwhile, or matches what nodes say or another database's names
            channel, pattern = name.decode(errors="replace"), found.text
        else:
            found = self._channels.get(push[1])
            if found is None:
                watcher = self._watched.get(push[1])
                if watcher is not None:
                    watcher(push[-1])
                return
            channel = found.text
        if self._observer is not None:
            self._observer.on_message(channel, pattern, push[-1])
        else:
            for owner in found.owners:
                self.events.add(Event(channel, push[-1], owner))
        if len(self.events.queued) > _PAUSE_AT and connection not in self._paused:
            connection.pause()
            self._paused.append(connection)

    def names(self) -> set[tuple[bool, bytes]]:
        """Return what the server has confirmed or is about to: patterns (True) and channels (False)."""
        return {(bool(pattern), name) for pattern in (0, 1) for name in self._names[pattern]}

    def end(self, error: ListenerClosed) -> None:
        """No more messages will come."""
        if self._observer is not None:
            self._observer.on_end(error)
        self.events.end(error)

    def watch(self, channel: bytes, callback: Callable[[bytes], None]) -> asyncio.Future[Any]:
        """Have ``callback`` called with what is published to a channel; the future gives the server's reply."""
        name = self.wire_name(channel)
        self._watched[name] = callback
        return self._pubsub(name).execute(encode_command(self._commands[0][0], name))

    def unwatch(self, channel: bytes) -> asyncio.Future[Any]:
        """Undo `watch`."""
        name = self.wire_name(channel)
        del self._watched[name]
        return self._leave(False, name)

    def report_gap(self, name: bytes, seconds: float) -> None:
        """Report that messages of a name of the wire may have been missed, over so many seconds."""
        watcher, found = self._watched.get(name), self._channels.get(name)
        if watcher is not None:
            watcher(b"")
        if found is not None and not (self._observer and self._observer.on_gap(found.text, seconds)):
            for owner in found.owners:
                self.events.add(Gap(owner or found.text, b"", seconds=seconds))

    # ---- names --------------------------------------------------------------------------------------------------

    async def _add(self, pattern: bool, names: Iterable[str]) -> None:
        waiting: list[Awaitable[None]] = []
        for text in names:
            key = self.tag + text.encode()
            name = self._names[pattern].get(key)
            if name is None:
                confirmed = self._pubsub(key).execute(encode_command(self._commands[pattern][0], key))
                name = self._names[pattern][key] = Name(text, confirmed)
            name.owners[_owner(text, pattern)] = None
            waiting.append(self._confirmed(pattern, key, name))
        for each in waiting:
            await each

    def _leave(self, pattern: bool, key: bytes) -> asyncio.Future[Any]:
        command = encode_command(self._commands[pattern][1], key)
        pubsub = self._pubsub(key)
        return pubsub.sunsubscribe(command) if self._sharded else pubsub.execute(command)

    async def _confirmed(self, pattern: bool, key: bytes, name: Name) -> None:
        # Several may wait for one answer; the cancellation of one must not reach the others.
        reply = await asyncio.shield(name.confirmed)
        self._report_confirmed(pattern, key)
        if isinstance(reply, hiredis.ReplyError):
            if self._names[pattern].get(key) is name:
                del self._names[pattern][key]
            text, cure = without_full_stop(str(reply)), permission_cure(str(reply))
            refused = f"The server refuses the subscription to {name.text!r}: {text}"
            raise SubscriptionRefused(f"{refused}. {cure}" if cure else refused)

    async def _remove(self, pattern: bool, names: Iterable[str]) -> None:
        waiting: list[Awaitable[Any]] = []
        for text in names:
            key = self.tag + text.encode()
            name = self._names[pattern].get(key)
            if name is None:
                continue
            name.owners.pop(_owner(text, pattern), None)
            if not name.owners:
                del self._names[pattern][key]
                waiting.append(self._leave(pattern, key))
        for each in waiting:
            await each


def _owner(text: str, pattern: bool) -> str | None:
    """Return what the hub calls the name that it is having subscribed: None if it is the group's own."""
    name = subscribing.get(text)
    return name if pattern or name != text else None
