"""Which channels of a node get a message in an envelope."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...core.events import Event
from ...core.exceptions import DecodeError
from ...core.serializers import MARKER
from ...hub.replay import ReplaySink
from ...hub.subscriber import Subscriber, Timestamped
from ...hub.subscriptions import Sink
from ..consumers.consumer_loop import Inbox
from ..messages.envelope import Header, open_envelope
from ..messages.ready_frames import to_asgi
from ..names import BrokerNames, channel_of

_REMEMBERED_MESSAGES = 1000


class Recipients:
    """The `MarkedReader` of a node.

    The message itself names whom it excludes. Of a message to several groups a channel gets the first copy; which
    one that was is remembered of the last thousand such messages, for the channels that are in more than one of them.
    """

    def __init__(
        self,
        names: BrokerNames,
        sink_of: Callable[[str, str], Sink | None],
        count_undecodable: Callable[[str, DecodeError], None],
        decode: Callable[[bytes], Any],
        inbox_of: Callable[[Subscriber], Inbox | None],
    ) -> None:
        """``sink_of`` is `LocalChannels.sink`, ``inbox_of`` returns the inbox of a running consumer."""
        self._decode = decode
        self._inbox_of = inbox_of
        self._names = names
        self._sink_of = sink_of
        self._count_undecodable = count_undecodable
        self._copies: dict[bytes, dict[str, str]] = {}
        """The topic of the copy that each channel got, by the id of the message; "" for a normal channel."""

    def fan_out(self, entry: Timestamped, sinks: Iterable[Sink]) -> tuple[Timestamped, Iterable[Sink]]:
        """Return the event without its envelope, and the sinks of the channels that get it."""
        arrived, event = entry
        try:
            header, body = open_envelope(event.message)
        except DecodeError as error:
            self._count_undecodable(event.group, error)
            return entry, ()
        entry = arrived, _with_body(event, body)
        for name in header.exclude:
            excluded = self._sink_of(event.group, name)
            if excluded is not None:
                sinks = [sink for sink in sinks if sink is not excluded]
        if len(header.groups) > 1:
            others = [topic for topic in map(self._names.group, header.groups) if topic != event.group]
            sinks = [sink for sink in sinks if self._is_first(header, event.group, _name(sink), others)]
        if header.urgent:
            # Without the ack handle: what is put in front of a mailbox is not retained.
            urgent = Event(event.group, body, event.subscription, None, event.position)
            for sink in sinks:
                _put_in_front(sink, (arrived, urgent))
            return entry, ()
        return entry, self._send_frames(event.group, body, sinks) if header.ready else sinks

    def _send_frames(self, topic: str, body: bytes, sinks: Iterable[Sink]) -> Iterable[Sink]:
        """Send a ready frame to the clients of the consumers that wait. Return the sinks of the others."""
        try:
            frame = to_asgi(self._decode(body))
        except DecodeError:
            frame = None
        if frame is None:
            return sinks
        others = []
        for sink in sinks:
            inbox = self._inbox_of(sink) if isinstance(sink, Subscriber) else None
            # A copy for each: a server or a middleware may change it.
            if inbox is None or inbox.put_frame is None or not inbox.put_frame(frame.copy()):
                others.append(sink)
        return others

    def for_queue(self, payload: bytes, queue: str) -> bytes | None:
        """Return the message for a normal channel that is in the group, if it gets it. Raises `DecodeError`."""
        header, body = open_envelope(payload)
        channel = channel_of(queue)
        if channel in header.exclude:
            return None
        if len(header.groups) > 1:
            copies = self._copies_of(header)
            if channel in copies:
                return None
            copies[channel] = ""
        return body

    def of_history(self, events: list[Event[bytes]], channel: str | None = None) -> list[Event[bytes]]:
        """Return what a channel gets of a group's history, or what there is for any channel; without envelopes."""
        found = []
        for event in events:
            if event.message[:1] == MARKER:
                try:
                    header, body = open_envelope(event.message)
                except DecodeError as error:
                    self._count_undecodable(event.group, error)
                    continue
                if header.urgent or (channel is not None and not self._is_for(header, event.group, channel)):
                    continue
                event = _with_body(event, body)
            found.append(event)
        return found

    def _is_for(self, header: Header, topic: str, channel: str) -> bool:
        return channel not in header.exclude and (len(header.groups) < 2 or self._is_first(header, topic, channel))

    def _is_first(self, header: Header, copy: str, channel: str, others: Iterable[str] | None = None) -> bool:
        """Return whether a channel has got no other copy of a message.

        This one is remembered; with ``others``, the topics of the other copies, only if the channel is in one of them.
        A name with a colon is that of a listener, whose patterns may match any of them.
        """
        known = self._copies.get(header.id, {}).get(channel)
        if known is not None:
            return known == copy
        if others is None or ":" in channel or any(self._sink_of(topic, channel) is not None for topic in others):
            self._copies_of(header)[channel] = copy
        return True

    def _copies_of(self, header: Header) -> dict[str, str]:
        copies = self._copies.get(header.id)
        if copies is None:
            if len(self._copies) >= _REMEMBERED_MESSAGES:
                del self._copies[next(iter(self._copies))]
            copies = self._copies[header.id] = {}
        return copies


def _with_body(event: Event[bytes], body: bytes) -> Event[bytes]:
    return Event(event.group, body, event.subscription, event.ack_handle, event.position, event.deliveries)


def _name(sink: Sink) -> str:
    """Return the name of the channel whose sink this is, or a listener's topics; nothing for any other sink."""
    mailbox = sink.subscriber if isinstance(sink, ReplaySink) else sink
    return mailbox.name if isinstance(mailbox, Subscriber) else ""


def _put_in_front(sink: Sink, entry: Timestamped) -> None:
    mailbox = sink.subscriber if isinstance(sink, ReplaySink) else sink
    # Whoever may publish can write envelopes: not for ever more than the capacity.
    if isinstance(mailbox, Subscriber) and len(mailbox) <= 2 * mailbox.capacity:
        mailbox.put_in_front([entry])
    else:
        sink.put(entry)
