"""The table of wanted groups and patterns, and what the broker knows of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import islice
from time import monotonic
from typing import Protocol

import anyio

from ..core.events import Event, Gap
from ..core.exceptions import ChannelLayerError, ListenerClosed
from ..core.layer import BaseChannelLayer, subscribing
from ..core.notifier import Bell, NewWaiter
from ..core.stats import BoundedLog
from .subscriber import Entry
from .supervisor import Life, logger

_AT_ONCE = 500


class Sink(Protocol):
    """What events are fanned out to."""

    def put(self, entry: Entry) -> None:
        """Take an event; never waits, never raises."""

    def close(self) -> None:
        """No more events will come."""


class Topic:
    """One name, who wants it, and in which life the broker was told."""

    __slots__ = ("busy", "changed", "name", "sinks", "subscribe", "subscribed", "table", "told", "unsubscribe")

    def __init__(
        self,
        name: str,
        table: dict[str, Topic],
        subscribe: Callable[[str], Awaitable[None]],
        unsubscribe: Callable[[str], Awaitable[None]],
        new_waiter: NewWaiter,
    ) -> None:
        self.name = name
        self.table = table
        self.subscribe = subscribe
        self.unsubscribe = unsubscribe
        self.sinks: dict[Sink, _Attaching | None] = {}
        """With the calls that are attaching it, until the first of them has."""
        self.subscribed: Life | None = None
        """The life in which the broker has confirmed the subscription."""
        self.told: Life | None = None
        """The life in which the broker may have heard of it."""
        self.busy = False
        """A call to the broker about this name is under way; `changed` rings when it ends."""
        self.changed = Bell(new_waiter)


class _Attaching:
    """The calls of `Topics.attach` that wait for one sink's subscription; the last to fail takes the sink away."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class Topics:
    """Fans events out to sinks, and keeps the broker's subscriptions equal to what the sinks want.

    The table changes at once, the broker is told afterwards; a cancellation can only hit the second part, and what it
    leaves undone is done by `tidy`.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        up: Callable[[], Awaitable[Life]],
        new_waiter: NewWaiter,
        on_missed: Callable[[str, float | None], None],
        on_late: Callable[[str, float], None],
    ) -> None:
        """``on_missed`` is called with each group or pattern of which the layer could not get everything.

        It is given `Gap.seconds`, too. ``on_late`` is called with one that the broker refused to subscribe to again,
        once it has, and how many seconds that took.
        """
        self._layer = layer
        self._on_missed = on_missed
        self._on_late = on_late
        self._up = up
        self._new_waiter = new_waiter
        self._groups: dict[str, Topic] = {}
        self._patterns: dict[str, Topic] = {}
        self._life: Life | None = None
        self._unwanted: dict[Topic, None] = {}
        self._untidy = Bell(new_waiter)
        self._refused: dict[Topic, float] = {}
        """What the broker would not subscribe to again in this life, and since when."""
        self._was_refused = Bell(new_waiter)
        self._log = BoundedLog()

    def __len__(self) -> int:
        return len(self._groups) + len(self._patterns)

    def deliver(self, event: Event[bytes]) -> None:
        """Put an event into every sink that wants it."""
        if isinstance(event, Gap):
            self._on_missed(event.group, event.seconds)
            return
        name = event.subscription
        topic = self._groups.get(event.group) if name is None else self._patterns.get(name) or self._groups.get(name)
        if topic is not None:
            entry = (monotonic(), event)
            for sink in topic.sinks:
                sink.put(entry)
        if event.receipt is not None:
            event.receipt.settle()

    async def attach(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Add a sink; returns when what anyone publishes afterwards is seen. If it raises, the sink is not added."""
        topic = self._topic(name, pattern)
        life = self._life
        if life is not None and topic.subscribed is life and life.error is None:
            topic.sinks[sink] = None
            return
        attaching = topic.sinks.setdefault(sink, _Attaching())
        if attaching is None:
            await self._settle(topic)
            return
        attaching.calls += 1
        try:
            await self._settle(topic)
        except BaseException:
            attaching.calls -= 1
            if not attaching.calls and topic.sinks.get(sink) is attaching:
                self._remove(topic, sink)
            raise
        if topic.sinks.get(sink) is attaching:
            topic.sinks[sink] = None

    def is_attached(self, name: str, sink: Sink) -> bool:
        """Whether a group has this sink, or somebody waits for that."""
        topic = self._groups.get(name)
        return topic is not None and sink in topic.sinks

    def detach(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Remove a sink at once; the broker is told soon."""
        topic = (self._patterns if pattern else self._groups).get(name)
        if topic is not None:
            self._remove(topic, sink)

    async def restore(self, life: Life) -> None:
        """Tell a broker that knows nothing yet of everything that is wanted."""
        self._life = life
        self._refused.clear()
        topics = iter([*self._groups.values(), *self._patterns.values()])
        while batch := list(islice(topics, _AT_ONCE)):
            async with anyio.create_task_group() as tasks:
                for topic in batch:
                    tasks.start_soon(self._restore, topic, life)

    async def tidy(self) -> None:
        """Tell the broker what is no longer wanted, until cancelled."""
        while True:
            while self._unwanted:
                topic = next(iter(self._unwanted))
                del self._unwanted[topic]
                await self._forget(topic)
            await self._untidy.wait()

    async def ask_again(self, seconds: float) -> None:
        """Try every so many ``seconds`` to subscribe to what the broker has refused, until cancelled."""
        while True:
            while self._refused:
                await anyio.sleep(seconds)
                await self._ask_again()
            await self._was_refused.wait()

    async def _ask_again(self) -> None:
        for topic, since in list(self._refused.items()):
            life = self._life
            if life is None or life.catches_up is None or life.error is not None:
                return  # this life is not up yet, or over; the next one is told of everything
            await self._restore(topic, life)
            if self._life is life and (topic.subscribed is life or not topic.sinks):
                del self._refused[topic]
                if topic.sinks and not life.catches_up:
                    self._on_late(topic.name, monotonic() - since)

    def close(self) -> None:
        """Close every sink."""
        for topic in [*self._groups.values(), *self._patterns.values()]:
            for sink in list(topic.sinks):
                sink.close()
        self._groups.clear()
        self._patterns.clear()

    def _topic(self, name: str, pattern: bool) -> Topic:
        table = self._patterns if pattern else self._groups
        topic = table.get(name)
        if topic is None:
            subscribe = self._layer.subscribe_pattern if pattern else self._layer.subscribe
            unsubscribe = self._layer.unsubscribe_pattern if pattern else self._layer.unsubscribe
            topic = table[name] = Topic(name, table, subscribe, unsubscribe, self._new_waiter)
        return topic

    def _remove(self, topic: Topic, sink: Sink) -> None:
        topic.sinks.pop(sink, None)
        if not topic.sinks:
            self._unwanted[topic] = None
            self._untidy.ring()

    async def _settle(self, topic: Topic) -> None:
        while True:
            life = await self._up()
            if topic.subscribed is life:
                return
            if topic.busy:
                await topic.changed.wait()
            else:
                await self._subscribe(topic, life)

    async def _restore(self, topic: Topic, life: Life) -> None:
        while topic.busy:
            await topic.changed.wait()
        if topic.sinks:
            try:
                await self._subscribe(topic, life)
            except Exception as error:
                trace = None if isinstance(error, ChannelLayerError) else error
                text = "Could not subscribe to %s again, so its subscribers hear nothing; it is tried again: %r"
                self._log.write(logging.ERROR, text, topic.name, error, exc_info=trace)
                self._refused.setdefault(topic, monotonic())
                self._was_refused.ring()

    async def _subscribe(self, topic: Topic, life: Life) -> None:
        topic.busy = True
        topic.told = life
        token = subscribing.set(topic.name)
        try:
            await topic.subscribe(topic.name)
            topic.subscribed = life
        except ListenerClosed as error:
            life.end(error)
        finally:
            subscribing.reset(token)
            topic.busy = False
            topic.changed.ring_all()

    async def _forget(self, topic: Topic) -> None:
        while topic.busy:
            await topic.changed.wait()
        if topic.sinks:
            return
        life = self._life
        if life is not None and topic.told is life and life.error is None:
            await self._unsubscribe(topic, life)
        if not topic.sinks and topic.table.get(topic.name) is topic:
            del topic.table[topic.name]

    async def _unsubscribe(self, topic: Topic, life: Life) -> None:
        topic.busy = True
        topic.subscribed = topic.told = None
        token = subscribing.set(topic.name)
        try:
            await topic.unsubscribe(topic.name)
        except ListenerClosed as error:
            life.end(error)
        except Exception:
            logger.exception("Could not unsubscribe from %s", topic.name)
        finally:
            subscribing.reset(token)
            topic.busy = False
            topic.changed.ring_all()
