"""Who wants which name of the wire, and the events made of what comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import hiredis

from ...core.events import Event, Gap
from ...core.exceptions import ListenerClosed, NotSupported, SubscriptionRefused
from ...core.layer import subscribing
from ..common.event_stream import EventStream
from .connection import Listener, Wire, pack

_BEHIND = 10_000
"""Events that wait for the hub before no more are read: the server keeps the rest, up to its own limit."""

Names = dict[bytes, "Name"]


class Name:
    """One channel or pattern of the wire."""

    __slots__ = ("confirmed", "owners", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.owners: dict[str | None, None] = {}
        """The names that the hub knows it by; None stands for its own."""
        self.confirmed: asyncio.Future[Any] | None = None


class Subscriptions:
    """The books of one life, and its events.

    A custom layer's ``subscribe`` may take one name of the hub apart and subscribe to several here: their events are
    marked with the hub's name, and a name of the wire is given up when its last owner is gone.
    """

    def __init__(
        self, listener: Callable[[bytes], Listener], unconsumed: list[Event[bytes]], sharded: bool = False
    ) -> None:
        """``listener`` gives the wire on which a name is heard; ``unconsumed`` are the events to begin with."""
        self.on_confirmed: Callable[[bool, bytes], None] = _nothing_to_do
        """Called with each name that the server has answered for; True for a pattern."""
        self.on_end: Callable[[ListenerClosed], None] = _nobody_asks_why
        """Called when no more events will come."""
        self.on_message: Callable[[str, str | None, bytes], None] | None = None
        """Called with the channel, the pattern that it was found by, and the message, and delivers what there is to it.

        Without it every message is an event.
        """
        self.on_missed: Callable[[str, float], bool] = _nothing_makes_up_for_it
        """Called as `missed` is, with a channel. Unless it makes up for what is missed, the owners get a `Gap`."""
        self._listener = listener
        self._sharded = sharded
        letter = "S" if sharded else ""
        self._verbs = (f"{letter}SUBSCRIBE", f"{letter}UNSUBSCRIBE"), ("PSUBSCRIBE", "PUNSUBSCRIBE")
        self._names: tuple[Names, Names] = {}, {}
        self._channels, self._patterns = self._names
        self._signals: dict[bytes, Callable[[bytes], None]] = {}
        self.arrivals = EventStream(unconsumed)
        self._paused: list[Wire] = []

    # ---- what a layer's subscribe may call ----------------------------------------------------------------------

    async def subscribe(self, *names: str) -> None:
        """Listen to channels; returns when the server has confirmed them all. Raises `SubscriptionRefused`."""
        await self._add(False, names)

    async def unsubscribe(self, *names: str) -> None:
        """Undo `subscribe`; what nobody subscribed to is no error."""
        await self._remove(False, names)

    async def psubscribe(self, *patterns: str) -> None:
        """Listen to every channel that matches a glob (``*``, ``?``, ``[...]``)."""
        self._require_patterns()
        await self._add(True, patterns)

    async def punsubscribe(self, *patterns: str) -> None:
        """Undo `psubscribe`."""
        self._require_patterns()
        await self._remove(True, patterns)

    def _require_patterns(self) -> None:
        if self._sharded:
            raise NotSupported(
                "Redis Cluster has no patterns for what is spread over its masters; subscribe to each group by its name"
            )

    # ---- what the layer does ------------------------------------------------------------------------------------

    async def next_event(self) -> Event[bytes]:
        """Wait for the next event. Raises `ListenerClosed` once those that came before the end are handed out."""
        event = await self.arrivals.next()
        if self._paused and len(self.arrivals) < _BEHIND // 2:
            for wire in self._paused:
                wire.resume()
            self._paused.clear()
        return event

    def receive(self, push: list[bytes], wire: Wire) -> None:
        """Make events of a message from the wire."""
        if push[0] == b"pmessage":
            found, channel = self._patterns.get(push[1]), push[2].decode(errors="replace")
        else:
            found = self._channels.get(push[1])
            if found is None:
                signal = self._signals.get(push[1])
                if signal is not None:
                    signal(push[-1])
                return
            channel = found.text
        if found is None:
            return  # what was on its way when the name was given up
        message = push[-1]
        if self.on_message is not None:
            self.on_message(channel, found.text if push[0] == b"pmessage" else None, message)
        else:
            for owner in found.owners:
                self.arrivals.add(Event(channel, message, owner))
        if len(self.arrivals) > _BEHIND and wire not in self._paused:
            wire.pause()
            self._paused.append(wire)

    def names(self) -> set[tuple[bool, bytes]]:
        """What the server has confirmed or is about to: patterns (True) and channels (False)."""
        return {(bool(pattern), name) for pattern in (0, 1) for name in self._names[pattern]}

    def end(self, error: ListenerClosed) -> None:
        """No more events will come."""
        self.on_end(error)
        self.arrivals.end(error)

    def signal(self, name: bytes, callback: Callable[[bytes], None]) -> asyncio.Future[Any]:
        """Have ``callback`` called with what is published to ``name``; the future tells when that is in effect."""
        self._signals[name] = callback
        return self._listener(name).ask(pack(self._verbs[0][0], name))

    def silence(self, name: bytes) -> None:
        """Undo `signal`."""
        del self._signals[name]
        self._leave(False, name)

    def missed(self, name: bytes, seconds: float) -> None:
        """Something may have been published to a channel in the last seconds that did not come."""
        signal, found = self._signals.get(name), self._channels.get(name)
        if signal is not None:
            signal(b"")
        if found is not None and not self.on_missed(found.text, seconds):
            for owner in found.owners:
                self.arrivals.add(Gap(owner or found.text, b"", seconds=seconds))

    # ---- the books ----------------------------------------------------------------------------------------------

    async def _add(self, pattern: bool, names: Iterable[str]) -> None:
        waiting: list[Awaitable[None]] = []
        for text in names:
            key = text.encode()
            name = self._names[pattern].get(key)
            if name is None:
                name = self._names[pattern][key] = Name(text)
            name.owners[_owner(text, pattern)] = None
            waiting.append(self._confirm(pattern, key, name))
        for each in waiting:
            await each

    def _leave(self, pattern: bool, key: bytes) -> asyncio.Future[Any]:
        command = pack(self._verbs[pattern][1], key)
        return self._listener(key).leave(command) if self._sharded else self._listener(key).ask(command)

    def _confirm(self, pattern: bool, key: bytes, name: Name) -> Awaitable[None]:
        if name.confirmed is None:
            name.confirmed = self._listener(key).ask(pack(self._verbs[pattern][0], key))
        return self._confirmed(pattern, key, name, name.confirmed)

    async def _confirmed(self, pattern: bool, key: bytes, name: Name, answer: asyncio.Future[Any]) -> None:
        # Several may wait for one answer; the cancellation of one must not reach the others.
        reply = await asyncio.shield(answer)
        self.on_confirmed(pattern, key)
        if isinstance(reply, hiredis.ReplyError):
            if self._names[pattern].get(key) is name:
                del self._names[pattern][key]
            forbidden = str(reply).startswith("NOPERM ")
            cure = f". Allow it with `ACL SETUSER ... &{name.text}`, or choose another prefix" if forbidden else ""
            raise SubscriptionRefused(f"The server refuses the subscription to {name.text!r}: {reply}{cure}")

    async def _remove(self, pattern: bool, names: Iterable[str]) -> None:
        waiting: list[Awaitable[Any]] = []
        for text in names:
            key = text.encode()
            name = self._names[pattern].get(key)
            if name is None:
                continue
            name.owners.pop(_owner(text, pattern), None)
            if not name.owners:
                del self._names[pattern][key]
                waiting.append(self._leave(pattern, key))
        for each in waiting:
            await each


def _nothing_to_do(pattern: bool, name: bytes) -> None:
    """Until there is something."""


def _nothing_makes_up_for_it(channel: str, seconds: float) -> bool:
    """Until something does."""
    return False


def _nobody_asks_why(error: ListenerClosed) -> None:
    """Until somebody does."""


def _owner(text: str, pattern: bool) -> str | None:
    """What the hub calls the name that it is having subscribed: None if it is the group's own."""
    name = subscribing.get(text)
    return name if pattern or name != text else None
