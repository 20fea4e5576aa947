"""The process-specific channels of one event loop: their mailboxes, groups and consumers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from time import monotonic
from typing import Any

from ...core.events import Event
from ...core.notifier import Notifier, waiter_type
from ...hub.channel import Channel
from ...hub.overflow import ordered
from ...hub.replay import ReplaySink
from ...hub.subscriber import Subscriber
from ..consumers.consumer_loop import Inbox
from ..consumers.internals import ConsumerLifetime
from ..consumers.turns import Turns
from ..messages.group_message import with_position
from ..names import is_of_consumer, new_channel_name
from ..presence.node import NodePresence
from ..settings import Settings

_LONGEST_SWEEP = 60.0
_SHORTEST_SWEEP = 0.05

_FEW = 8
"""Topics that a tuple finds as fast as a dict, in a fraction of the memory."""

_NO_REPLAYS: dict[str, ReplaySink] = {}
"""What the channels share that have resumed no group; replaced, never changed."""


class LocalChannel:
    """One channel that is in use."""

    __slots__ = ("mailbox", "replays", "topics")

    def __init__(self, mailbox: Subscriber) -> None:
        self.mailbox = mailbox
        self.topics: tuple[str, ...] | dict[str, None] = ()
        """The topics of its groups."""
        self.replays = _NO_REPLAYS
        """The sinks of the topics that it resumed."""

    @property
    def name(self) -> str:
        return self.mailbox.name

    @property
    def is_unused(self) -> bool:
        return not self.topics and not len(self.mailbox) and not self.mailbox.has_waiters

    def join(self, topic: str) -> None:
        """Add the topic of a group."""
        if isinstance(self.topics, dict):
            self.topics[topic] = None
        elif topic not in self.topics:
            topics = (*self.topics, topic)
            self.topics = topics if len(topics) <= _FEW else dict.fromkeys(topics)

    def leave(self, topic: str) -> None:
        """Undo `join`."""
        if isinstance(self.topics, dict):
            del self.topics[topic]
        else:
            self.topics = tuple(other for other in self.topics if other != topic)

    def sink(self, topic: str) -> Subscriber | ReplaySink:
        """Return what is subscribed to a topic."""
        return self.replays.get(topic, self.mailbox)


class PrefixReader:
    """The readers of all channels with one prefix; they get the messages for which no reader of the channel waits."""

    def __init__(self) -> None:
        self.notifier = Notifier(waiter_type())
        self.unread: dict[Subscriber, None] = {}

    def add(self, mailbox: Subscriber) -> None:
        self.unread[mailbox] = None
        self.notifier.notify()

    async def receive(self) -> tuple[Event[bytes], Any]:
        while True:
            while self.unread:
                mailbox = next(iter(self.unread))
                found = None if mailbox.has_waiters else mailbox.take()
                if found is not None:
                    return found
                del self.unread[mailbox]
            await self.notifier.wait()


class LocalChannels:
    """The channels of one node. A channel is kept while it has messages, a waiting reader or a group.

    The channels of a consumer end with it, unless another reader waits. Then messages for them are dropped, and they
    join no group any more. Unread messages expire ``expiry`` seconds after their arrival, memberships ``group_expiry``
    seconds after the last `group_add`.
    """

    def __init__(self, node_id: str, channel: Channel, settings: Settings) -> None:
        self.presence = NodePresence(node_id, channel, settings, self)
        self._node_id = node_id
        self._channel = channel
        self._settings = settings
        self._channels: dict[str, LocalChannel] = {}
        self._prefix_readers: dict[str, PrefixReader] = {}
        self._lifetimes: dict[str, ConsumerLifetime] = {}
        self.inboxes: dict[Subscriber, Inbox] = {}
        """Of running consumers, by their mailboxes."""
        self.turns = Turns()
        self._outliving: set[str] = set()
        """The channels that another reader has kept when their consumer ended."""
        # Every membership lasts equally long, so the order of joining is the order of ending.
        self._membership_ends: dict[tuple[str, str], float] = {}
        self._sweep_interval = min(_LONGEST_SWEEP, max(_SHORTEST_SWEEP, settings.expiry))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[LocalChannel]:
        return iter(list(self._channels.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._channels

    def mailboxes(self) -> list[Subscriber]:
        return [channel.mailbox for channel in self._channels.values()]

    def new(self, prefix: str, consumer: object | None = None, task: asyncio.Task[Any] | None = None) -> str:
        """Return a name that is unique and cannot be guessed; may be called in any thread.

        It ends with ``consumer``, which runs in ``task``. A name that is not used takes no memory.
        """
        name = new_channel_name(prefix, self._node_id, of_consumer=consumer is not None)
        if consumer is not None:
            self._lifetimes[name] = ConsumerLifetime(consumer, task, self._loop, lambda: self._consumer_ended(name))
        return name

    def _consumer_ended(self, name: str) -> None:
        if name in self._lifetimes:
            self._lifetimes.pop(name).stop()
            channel = self._channels.get(name)
            if channel is not None:
                self.inboxes.pop(channel.mailbox, None)
                if channel.mailbox.has_waiters:
                    self._outliving.add(name)
                else:
                    self._clear(channel)

    def _has_ended(self, name: str) -> bool:
        """Return whether a channel belonged to a consumer that has ended."""
        is_known = name in self._channels or name in self._lifetimes or name in self._outliving
        return not is_known and is_of_consumer(name)

    def _get_or_add(self, name: str) -> LocalChannel:
        channel = self._channels.get(name)
        if channel is None:
            mailbox = self._channel.mailbox(
                name, capacity=self._settings.capacity_of(name), overflow=self._settings.overflow_of(name)
            )
            channel = self._channels[name] = LocalChannel(mailbox)
            reader = self._prefix_reader(name)
            if reader is not None:
                mailbox.on_unclaimed = reader.add
            if self._timer is None:
                self._schedule_sweep()
        return channel

    def _prefix_reader(self, name: str) -> PrefixReader | None:
        return self._prefix_readers.get(name[: name.index("!") + 1]) if self._prefix_readers else None

    def _clear(self, channel: LocalChannel) -> None:
        for topic in list(channel.topics):
            self.group_discard(topic, channel.name)
        channel.mailbox.clear()
        self._remove_unused(channel)

    def _remove_unused(self, channel: LocalChannel) -> None:
        if channel.is_unused and channel.name not in self._lifetimes and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            reader = self._prefix_reader(channel.name)
            if reader is not None:
                reader.unread.pop(channel.mailbox, None)

    def deliver(self, name: str, arrived: float, payload: bytes) -> None:
        """Put a message that was sent to a channel into its mailbox; ``arrived`` is a time of `time.monotonic`."""
        if not self._has_ended(name):
            self._get_or_add(name).mailbox.put((arrived, Event(name, payload)))

    def deliver_to_members(self, payload: bytes, topic: str | None = None) -> None:
        """Put a message into the mailbox of every channel in the group of ``topic``, or in any group."""
        now = monotonic()
        for channel in self._channels.values():
            if channel.topics if topic is None else topic in channel.topics:
                channel.mailbox.put((now, Event(channel.name, payload)))

    def put_back(self, name: str, event: Event[bytes]) -> None:
        """Return a message that was received for a caller that has gone."""
        self._get_or_add(name).mailbox.put_back((monotonic(), event))

    async def receive(self, name: str) -> Any:
        """Wait for the next message that was sent to a channel or to a group it is in."""
        channel = self._channels.get(name) or self._get_or_add(name)
        mailbox = channel.mailbox
        try:
            while (found := mailbox.take()) is None:
                waiter = mailbox.notifier.waiter()
                try:
                    await waiter
                except BaseException:
                    mailbox.notifier.cancel(waiter)
                    raise
            return found[1] if found[0].position is None else with_position(*found)
        finally:
            if not channel.topics:
                self._remove_unused(channel)

    def inbox(self, name: str, former: Inbox | None = None) -> Inbox:
        """Return the messages of a consumer's channel, which is kept until the consumer ends.

        It is the ``former`` inbox of the consumer, if it has had one for another channel.
        """
        mailbox = self._get_or_add(name).mailbox
        if former is not None:
            self.inboxes.pop(former.mailbox, None)
            former.read(mailbox)
        inbox = self.inboxes[mailbox] = former or Inbox(mailbox, self.turns)
        return inbox

    async def receive_prefix(self, prefix: str) -> Any:
        """Wait for the next message of any channel that begins with ``prefix``, which ends with ``!``."""
        reader = self._prefix_readers.get(prefix)
        if reader is None:
            reader = self._prefix_readers[prefix] = PrefixReader()
            for channel in self._channels.values():
                if channel.name.startswith(prefix):
                    channel.mailbox.on_unclaimed = reader.add
                    if len(channel.mailbox):
                        reader.add(channel.mailbox)
        event, message = await reader.receive()
        return message if event.position is None else with_position(event, message)

    def sink(self, topic: str, name: str) -> Subscriber | ReplaySink | None:
        """Return what is subscribed to a topic for a channel that is in its group, or None."""
        channel = self._channels.get(name)
        return channel.sink(topic) if channel is not None and topic in channel.topics else None

    def watches(self, name: str) -> bool:
        """Return whether a channel's consumer has a method for changes of members."""
        return name in self._lifetimes and hasattr(self._lifetimes[name].consumer(), "presence_changed")

    async def group_add(self, topic: str, name: str) -> None:
        """Add a channel to the group of ``topic``, or renew its membership."""
        if self._has_ended(name):
            return
        channel = self._get_or_add(name)
        topic = sys.intern(topic)  # one string for all members
        channel.join(topic)
        self._membership_ends.pop((topic, name), None)
        self._membership_ends[topic, name] = monotonic() + self._settings.group_expiry
        if len(self._membership_ends) == 1:
            self._schedule_sweep()
        try:
            await self._channel.add_sink(topic, channel.sink(topic))
        except BaseException:
            # Another task may be adding the channel, or have added it, or have discarded it meanwhile.
            if topic in channel.topics and not self._channel.has_sink(topic, channel.sink(topic)):
                self._end_membership(topic, channel)
            raise

    async def resume(self, topic: str, name: str, make_sink: Callable[[Subscriber], ReplaySink]) -> ReplaySink:
        """Add a channel that is not in the group of ``topic`` to it through a sink.

        While it is in such a group, its messages do not expire: an old one may be the next in order. Nor do newer
        ones replace them, or have them dropped.
        """
        channel = self._get_or_add(name)
        sink = make_sink(channel.mailbox)
        if channel.replays is _NO_REPLAYS:
            channel.replays = {}
        channel.replays[topic] = sink
        channel.mailbox.expiry = None
        channel.mailbox.overflow = ordered(channel.mailbox.overflow)
        await self.group_add(topic, name)
        return sink

    def mark_gap(self, topic: str) -> None:
        """Report missing messages to the channels that resumed the group of ``topic``."""
        for channel in self._channels.values():
            if topic in channel.replays:
                channel.replays[topic].mark_gap()

    def group_discard(self, topic: str, name: str) -> None:
        """End a membership, at once; does nothing if there is none."""
        channel = self._channels.get(name)
        if channel is not None and topic in channel.topics:
            self._channel.remove_sink(topic, channel.sink(topic))
            self._end_membership(topic, channel)

    def flush(self) -> None:
        """Drop all messages and memberships; readers keep waiting."""
        for channel in list(self._channels.values()):
            self._clear(channel)

    def _end_membership(self, topic: str, channel: LocalChannel) -> None:
        channel.leave(topic)
        self.presence.discard(topic, channel.name)
        self._membership_ends.pop((topic, channel.name), None)
        if not self._membership_ends:
            self._membership_ends = {}  # the first entry of a dict that was large is slow to find
        if channel.replays.pop(topic, None) is not None and not channel.replays:
            channel.replays = _NO_REPLAYS
            channel.mailbox.expiry = self._settings.expiry
            channel.mailbox.overflow = self._settings.overflow_of(channel.name)
        self._remove_unused(channel)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule_sweep(self) -> None:
        delay = self._sweep_interval
        if self._membership_ends:
            delay = min(delay, max(0.0, next(iter(self._membership_ends.values())) - monotonic()))
        self.close()
        self._timer = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = monotonic()
        for topic, name in list(takewhile(lambda key: self._membership_ends[key] <= now, self._membership_ends)):
            self.group_discard(topic, name)
        for channel in list(self._channels.values()):
            channel.mailbox.drop_expired(now)
            self._remove_unused(channel)
        if self._channels:
            self._schedule_sweep()
