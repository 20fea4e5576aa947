"""One life of the layer in a Redis Cluster: sharded publish/subscribe, spread over the masters by the names' slots."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import anyio
import hiredis

from ....core.events import Event
from ....core.exceptions import ChannelLayerError, ListenerClosed
from ....core.stats import RateLimitedLogger
from ..connection import Wire, pack
from ..keys import slot_of
from ..peers import NODES, Presence
from ..queues import Queues
from ..scripts import look_up_bindings
from ..server import Server, explain
from ..session import checked, scan
from ..subscriptions import Subscriptions
from .discovery import ClusterAddress
from .routing import Masters, Route, is_redirection

Result = TypeVar("Result")


class Presences:
    """A `Presence` for each master, so that after an outage nobody talks to a room that is empty at one of them."""

    def __init__(self) -> None:
        self._all: dict[bytes, Presence] = {}

    @property
    def missing(self) -> bool:
        """Whether nodes may still be on their way back."""
        return any(each.missing for each in self._all.values())

    async def everybody(self) -> None:
        """Wait until those who were there before are back, at every master."""
        for each in self._all.values():
            await each.everybody()

    def begin(self, life: ClusterLife, tags: list[bytes]) -> None:
        """A life begins; ``tags`` are one of each master's."""
        names = [b"%b{%b}" % (NODES, tag) for tag in tags]
        self._all = {name: self._all.get(name) or Presence(name, sharded=True) for name in names}
        for name, each in self._all.items():
            each.begin(life.commands(name), life.subscriptions)

    def subscribed(self, pattern: bool, name: bytes) -> None:
        """As `Presence.subscribed`."""
        for each in self._all.values():
            each.subscribed(pattern, name)

    def count(self) -> None:
        """As `Presence.count`."""
        for each in self._all.values():
            each.count()

    def end(self) -> None:
        """The life is over."""
        for each in self._all.values():
            each.end()


class ClusterLife:
    """All masters of a cluster, as long as all of them live; a new life finds those who took over.

    Slots may move meanwhile: commands and subscriptions follow them. A subscription that had to follow may have missed
    something: its events go on after a `Gap`, or, of a group with a history, after what it has missed.
    """

    publish_verb = "SPUBLISH"

    def __init__(
        self,
        address: ClusterAddress,
        probe_interval: float,
        queues: Queues,
        presences: Presences,
        unconsumed: list[Event[bytes]],
    ) -> None:
        """``unconsumed`` are events of the life before."""
        self.error: ListenerClosed | None = ListenerClosed(f"{address} is not connected yet")
        self.presence = presences
        self._masters = Masters(address, probe_interval, self._receive, self._server_ended, self._end_hearing)
        self.subscriptions = Subscriptions(partial(Route, self._masters, self.give_up, True), unconsumed, sharded=True)
        self._address = address
        self._queues = queues
        self._dead: set[Server] = set()
        self._opening = anyio.CancelScope()
        self._log = RateLimitedLogger()
        self._open = False

    # ---- from connect to disconnect -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to every master. Raises `ListenerClosed`, also if `close` is called meanwhile."""
        try:
            with self._opening:
                await self._masters.open()
                self._begin()
            if not self._open:
                raise ListenerClosed(f"{self._address} was disconnected while it connected")
        except BaseException as error:
            self._masters.abort()
            if isinstance(error, ListenerClosed):
                self.subscriptions.end(error)
            raise

    def _begin(self) -> None:
        for server in self._dead:
            raise ListenerClosed(f"{server.address} went away while the other masters were connected")
        self.error = None
        self._open = True
        self._queues.begin(self)
        self.presence.begin(self, self._masters.tags())
        self.subscriptions.on_confirmed = self.presence.subscribed
        self._masters.on_probe = self._tidy

    async def close(self, error: ListenerClosed) -> list[Event[bytes]]:
        """End it, in peace where the master lives. Returns what came before it broke and was not fetched."""
        if not self._open:
            self._opening.cancel()
            self.subscriptions.end(error)
            return self.subscriptions.arrivals.unconsumed()
        broken = self.error is not None
        if not broken:
            self.error = error
            self.presence.end()
            self.subscriptions.end(error)
            await self._queues.leave(error)
        await self._masters.close(self._dead)
        return self.subscriptions.arrivals.unconsumed() if broken else []

    def give_up(self, error: ListenerClosed) -> None:
        """End it at once; nothing more is to be had."""
        self._end(error)
        self._end_hearing(error)

    def _server_ended(self, server: Server, error: ListenerClosed) -> None:
        self._dead.add(server)
        self._end(error)

    def _end(self, error: ListenerClosed) -> None:
        if self.error is None:
            self.error = self._ours(error)
            self.presence.end()
            self._queues.end(self.error)

    def _end_hearing(self, error: ListenerClosed) -> None:
        # The other masters may live on; what they still say is left over for the next life.
        self.subscriptions.end(self._ours(error))

    def _ours(self, error: ListenerClosed) -> ListenerClosed:
        text = str(error)
        return error if text.startswith(str(self._address)) else ListenerClosed(f"{self._address}: {text}")

    def _tidy(self) -> None:
        self.presence.count()
        self._queues.tidy()

    # ---- commands -----------------------------------------------------------------------------------------------

    def commands(self, key: bytes) -> Route:
        """The way for the commands about a key."""
        return Route(self._masters, self.give_up, False, key)

    async def ask(self, about: bytes, *command: bytes | str | int) -> Any:
        """Send one command about a key and return its reply. Raises what the server refuses."""
        return checked(self, await self.commands(about).ask(pack(*command)))

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """As `Life.publish`."""
        look_up, publish = look_up_bindings(name), pack("SPUBLISH", name, message)
        bound, reached = await self._masters.wire(slot_of(name), False).ask(look_up + publish, replies=2)
        if is_redirection(bound):
            bound = await self._follow(name, look_up, bound)
        if is_redirection(reached):
            reached = await self._follow(name, publish, reached)
        return bound, reached

    async def _follow(self, name: bytes, command: bytes, reply: hiredis.ReplyError) -> Any:
        return await self._or_give_up(self._masters.follow(name, False, command, reply))

    async def _or_give_up(self, result: Awaitable[Result]) -> Result:
        try:
            return await result
        except ListenerClosed as error:
            self.give_up(error)
            raise

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""
        if is_redirection(reply):
            return ChannelLayerError(
                f"{self._address} refuses: {reply}. The slot has been half way between two masters for seconds: "
                f"finish its migration, or repair the cluster with `redis-cli --cluster fix`"
            )
        error = explain(str(self._address), reply)
        if isinstance(error, ListenerClosed):
            self.give_up(error)
        return error

    def outwaits(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """As `Life.outwaits`; here that has been waited for some seconds already."""
        passes = is_redirection(reply)
        if passes:
            self._log.write(logging.WARNING, "Readers of %s have to wait: %s", queue, self.refusal(reply))
        return passes

    async def keys(self, start: bytes, *kinds: str) -> list[bytes]:
        """As `Life.keys`, of all masters."""
        wires = await self._or_give_up(self._masters.all())
        return [key for wire in wires for key in await scan(self, wire, start, *kinds)]

    # ---- slots that move ----------------------------------------------------------------------------------------

    def _receive(self, push: list[bytes], wire: Wire) -> None:
        if push[0] != b"sunsubscribe":
            self.subscriptions.receive(push, wire)
        elif self.error is None and self._masters.has_lost(push[1], wire):
            answer = Route(self._masters, self.give_up, True, push[1]).ask(pack("SSUBSCRIBE", push[1]))
            answer.add_done_callback(partial(self._resubscribed, push[1], monotonic()))

    def _resubscribed(self, name: bytes, since: float, answer: asyncio.Future[Any]) -> None:
        if answer.exception() is not None:
            return  # the life is over
        if isinstance(answer.result(), hiredis.ReplyError):
            self.give_up(ListenerClosed(f"{self._address}: {answer.result()}, said of the subscription to {name!r}"))
        else:
            self.subscriptions.missed(name, monotonic() - since)
