"""How many nodes listen on a server, so that after an outage the first one back does not talk to an empty room."""

from __future__ import annotations

import asyncio
from typing import Any

from .connection import Speaker, pack
from .subscriptions import Subscriptions

NODES = b"anyio-channels:nodes"
"""Every node listens to this channel once its subscriptions of the life before are restored, and then says so on it."""

_RESTORED_AT_LATEST = 1.0
_EVERYBODY_AT_LATEST = 3.0


class Presence:
    """The nodes of one server, remembered over all lives of a layer.

    In a new life `everybody` waits until as many nodes are back as there were at the end of the last one, for three
    seconds at most: some may be gone for good.
    """

    def __init__(self, channel: bytes = NODES, sharded: bool = False) -> None:
        """``channel`` is where the nodes meet; ``sharded`` if it is one of a cluster's."""
        self._channel = channel
        self._count = pack("PUBSUB", "SHARDNUMSUB" if sharded else "NUMSUB", channel)
        self._hello = pack("SPUBLISH" if sharded else "PUBLISH", channel, b"")
        self.missing = False
        """Whether nodes may still be on their way back."""
        self._nodes = 0
        self._names: set[tuple[bool, bytes]] = set()
        """What was subscribed to in the life before and has not been restored."""
        self._entered = False
        self._alive = False
        self._back: asyncio.Future[None]
        self._timers: list[asyncio.TimerHandle] = []
        self._commands: Speaker
        self._subscriptions: Subscriptions

    def begin(self, commands: Speaker, subscriptions: Subscriptions) -> None:
        """A life begins."""
        loop = asyncio.get_running_loop()
        self._commands, self._subscriptions = commands, subscriptions
        self._entered = False
        self._alive = True
        self._back = loop.create_future()
        self.missing = self._nodes > 1
        self._timers = [
            loop.call_later(_RESTORED_AT_LATEST, self._enter),
            loop.call_later(_EVERYBODY_AT_LATEST, self._all_back),
        ]
        if not self._names:
            self._enter()

    def end(self) -> None:
        """The life is over."""
        for timer in self._timers:
            timer.cancel()
        self._names = self._subscriptions.names() | (set() if self._entered else self._names)
        self._alive = False
        self._all_back()

    def subscribed(self, pattern: bool, name: bytes) -> None:
        """The server has confirmed a subscription: perhaps the last one that the life before had."""
        if not self._entered:
            self._names.discard((pattern, name))
            if not self._names:
                self._enter()

    def count(self) -> None:
        """Ask how many nodes there are."""
        if self._entered and self._alive:
            self._commands.ask(self._count).add_done_callback(self._counted)

    async def everybody(self) -> None:
        """Wait until those who were there before are back."""
        await asyncio.shield(self._back)

    def _enter(self) -> None:
        if self._entered:
            return
        self._entered = True
        self._subscriptions.signal(self._channel, self._heard).add_done_callback(self._say_hello)

    def _heard(self, message: bytes) -> None:
        self.count()

    def _say_hello(self, answer: asyncio.Future[Any]) -> None:
        # If an ACL refuses the channel, the count stays below two, and nobody is waited for.
        if self._alive and answer.exception() is None:
            self._commands.tell(self._hello)

    def _counted(self, answer: asyncio.Future[Any]) -> None:
        if not self._alive or answer.exception() is not None:
            return
        reply = answer.result()
        nodes = int(reply[1]) if isinstance(reply, list) else 0
        if not self.missing or nodes >= self._nodes:
            self._nodes = nodes
            self._all_back()

    def _all_back(self) -> None:
        self.missing = False
        if not self._back.done():
            self._back.set_result(None)
