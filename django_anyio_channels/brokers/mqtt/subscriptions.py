"""The topic filters that a session subscribes to, and the way of each message to the events of its groups."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from ...core.events import Event
from ...core.exceptions import SubscriptionRefused
from ..common.event_stream import EventStream
from .inflight import PublishAck
from .packets import Publish
from .topics import matches, to_group

logger = logging.getLogger("django_anyio_channels")

SESSION_BACKLOG_SECONDS = 10.0
"""How long the messages of a resumed session wait for their subscriber."""


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One topic filter, and what becomes of its messages."""

    topic_filter: bytes
    name: str
    """What errors call the subscription."""
    group: str | None = None
    """None for a pattern: each topic is a group."""
    subscription: str | None = None
    """`Event.subscription`."""
    decode: Callable[[Publish], bytes | None] | None = None
    """Returns the payload for the subscriber, or None for nothing. Without it that is the message's payload."""
    handler: Callable[[bytes], None] | None = None
    """Takes the payloads in place of the event stream."""


class Subscriptions:
    """The subscriptions of one session. Changes the table only; `Session` tells the broker."""

    def __init__(self, address: str, events: EventStream, *, persistent: bool) -> None:
        """``persistent``: the broker keeps the session, and brings again what its readers have not acknowledged."""
        self._address = address
        self._events = events
        self._persistent = persistent
        self._subscriptions: dict[int, Subscription] = {}
        self._identifiers: dict[bytes, int] = {}
        self._confirmed: set[bytes] = set()
        self._buffering = persistent
        self._session_backlog: list[tuple[Publish, PublishAck | None]] = []
        """Messages of a resumed session, which the broker sends at once, without a subscriber yet."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subscription: Subscription) -> int | None:
        """Add a subscription. Returns its identifier, or None if the broker has confirmed it already.

        Raises `SubscriptionRefused` if its topic filter is subscribed to by another name.
        """
        topic_filter = subscription.topic_filter
        known = self._subscriptions.get(self._identifiers.get(topic_filter, 0))
        if known is not None and known.name != subscription.name:
            raise SubscriptionRefused(
                f"{subscription.name} and {known.name} are the same MQTT topic, {topic_filter.decode()}; one event "
                f"loop can subscribe to it by one of these names only"
            )
        if topic_filter in self._confirmed:
            return None
        identifier = self._identifiers.get(topic_filter) or self._new_identifier(topic_filter)
        self._subscriptions[identifier] = subscription
        backlog, self._session_backlog = self._session_backlog, []
        for message, ack_handle in backlog:
            self.receive(message, ack_handle)
        return identifier

    def _new_identifier(self, topic_filter: bytes) -> int:
        """Return the number by which the broker says which subscription a message is for.

        Made of the filter: a session that outlived its process still sends the former process's numbers.
        """
        identifier = crc32(topic_filter) & 0x0FFF_FFFF or 1
        while identifier in self._subscriptions:
            identifier = identifier % 0x0FFF_FFFF + 1
        self._identifiers[topic_filter] = identifier
        return identifier

    def confirm(self, topic_filter: bytes) -> None:
        """Note that the broker has confirmed a subscription, unless it was removed meanwhile."""
        if topic_filter in self._identifiers:
            self._confirmed.add(topic_filter)

    def remove(self, topic_filter: bytes) -> bool:
        """Remove a subscription. Returns whether there was one."""
        self._confirmed.discard(topic_filter)
        identifier = self._identifiers.pop(topic_filter, None)
        if identifier is None:
            return False
        del self._subscriptions[identifier]
        return True

    # ---- messages -----------------------------------------------------------------------------------------------

    def receive(self, message: Publish, ack_handle: PublishAck | None) -> None:
        """Pass a message to its subscriptions."""
        if message.subscriptions:
            known = self._subscriptions
            candidates = [known[each] for each in message.subscriptions if each in known]
        else:
            candidates = list(self._subscriptions.values())
        subscriptions = [each for each in candidates if matches(each.topic_filter, message.topic)]
        if self._buffering and not subscriptions:
            self._session_backlog.append((message, ack_handle))
            return
        # A session that ends with its connection brings nothing twice, so its readers need acknowledge nothing: a slow
        # one would only use up the broker's Receive Maximum for all others.
        retained = ack_handle if self._persistent else None
        for subscription in subscriptions:
            payload = message.payload if subscription.decode is None else subscription.decode(message)
            if payload is None:
                continue
            if subscription.handler is not None:
                subscription.handler(payload)
                continue
            if retained is not None:
                retained.retain()
            group = to_group(message.topic) if subscription.group is None else subscription.group
            self._events.add(Event(group, payload, subscription.subscription, retained))
        if ack_handle is not None:
            ack_handle.release()

    def begin(self, *, resumed: bool) -> None:
        """Begin the session. The messages of a resumed one wait for their subscribers."""
        seconds = SESSION_BACKLOG_SECONDS if resumed else 0
        self._timer = asyncio.get_running_loop().call_later(seconds, self._stop_buffering)

    def end(self) -> None:
        """End the session."""
        if self._timer is not None:
            self._timer.cancel()

    def _stop_buffering(self) -> None:
        """Drop the messages that have no subscriber."""
        self._buffering = False
        backlog, self._session_backlog = self._session_backlog, []
        if backlog:
            text = "%s sent %d messages of the former session that nobody subscribed to within %g s (the first: %s)"
            logger.warning(text, self._address, len(backlog), SESSION_BACKLOG_SECONDS, to_group(backlog[0][0].topic))
        for message, ack_handle in backlog:
            self.receive(message, ack_handle)
