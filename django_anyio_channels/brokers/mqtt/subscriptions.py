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


@dataclass(slots=True, eq=False)
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
    retained: bool = False
    """Whether the handler gets what is retained, too."""
    identifier: int = 0
    """The number by which the broker says that a message is for this subscription; set by `Subscriptions.add`."""
    confirmed: bool = False
    """Whether the broker has confirmed it."""


class Subscriptions:
    """The subscriptions of one session. Changes the table only; `Session` tells the broker."""

    def __init__(self, address: str, events: EventStream, *, persistent: bool) -> None:
        """``persistent``: the broker keeps the session, and brings again what its readers have not acknowledged."""
        self._address = address
        self._events = events
        self._persistent = persistent
        self._by_filter: dict[bytes, Subscription] = {}
        self._by_identifier: dict[int, Subscription] = {}
        self._buffering = persistent
        self._translates = False
        self._session_backlog: list[tuple[Publish, PublishAck | None]] = []
        """Messages of a resumed session, which the broker sends at once, without a subscriber yet."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subscription: Subscription) -> Subscription:
        """Add a subscription and return it, or the one to the same topic filter if there is one by the same name.

        Raises `SubscriptionRefused` if the topic filter is subscribed to by another name.
        """
        topic_filter = subscription.topic_filter
        known = self._by_filter.setdefault(topic_filter, subscription)
        if known.name != subscription.name:
            raise SubscriptionRefused(
                f"{subscription.name} and {known.name} are the same MQTT topic, {topic_filter.decode()}; one event "
                f"loop can subscribe to it by one of these names only"
            )
        if known is subscription:
            # Made of the filter: a session that outlived its process still sends the former process's numbers.
            identifier = crc32(topic_filter) & 0x0FFF_FFFF or 1
            while identifier in self._by_identifier:
                identifier = identifier % 0x0FFF_FFFF + 1
            subscription.identifier = identifier
            self._by_identifier[identifier] = subscription
            self._receive_backlog()
        return known

    def remove(self, topic_filter: bytes) -> bool:
        """Remove a subscription. Returns whether there was one."""
        subscription = self._by_filter.pop(topic_filter, None)
        if subscription is None:
            return False
        del self._by_identifier[subscription.identifier]
        return True

    def receive(self, message: Publish, ack_handle: PublishAck | None) -> None:
        """Pass a message to its subscriptions."""
        if message.subscriptions:
            known = self._by_identifier
            candidates = [known[each] for each in message.subscriptions if each in known]
        else:
            candidates = list(self._by_filter.values())
        subscriptions = [each for each in candidates if matches(each.topic_filter, message.topic)]
        if not subscriptions and message.subscriptions:
            subscriptions = [
                each for each in candidates if matches(each.topic_filter.replace(b".", b"/"), message.topic)
            ]
            if subscriptions:
                message = self._untranslated(message, subscriptions[0])
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

    def _untranslated(self, message: Publish, subscription: Subscription) -> Publish:
        """Return a message, as it was published, of a broker that translates dots in topics into slashes."""
        if not self._translates:
            self._translates = True
            text = (
                "%s translates dots in topics into slashes, as RabbitMQ does (the first topic: %s). Names that differ "
                "only in these are one group there, and subscribers to a pattern get the translated names"
            )
            logger.warning(text, self._address, subscription.topic_filter.decode())
        topic = subscription.topic_filter
        return message if subscription.group is None or topic.startswith(b"$share/") else message._replace(topic=topic)

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
        backlog = self._session_backlog
        if backlog:
            text = "%s sent %d messages of the previous session without a subscription within %g s (the first: %s)"
            logger.warning(text, self._address, len(backlog), SESSION_BACKLOG_SECONDS, to_group(backlog[0][0].topic))
        self._receive_backlog()

    def _receive_backlog(self) -> None:
        backlog, self._session_backlog = self._session_backlog, []
        for message, ack_handle in backlog:
            self.receive(message, ack_handle)
