"""What is in flight: our packets that the broker answers, and its QoS 1 and 2 messages that we acknowledge."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from ...core.exceptions import ListenerClosed
from . import packets
from .packets import Ack, Publish

_PACKET_IDS = 0xFFFF
_SUBSCRIBES = 1024
"""How many SUBSCRIBE and UNSUBSCRIBE packets may be in flight; the other packet identifiers are for PUBLISH."""

Write = Callable[[bytes], object]


class OutgoingPackets:
    """Our packets that the broker answers, by packet identifier.

    A packet identifier and its slot stay in use until the broker has answered, also when the caller was cancelled.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self.messages = asyncio.Semaphore(_PACKET_IDS - _SUBSCRIBES)
        """A slot for each PUBLISH at QoS 1 or 2 that may be in flight."""
        self.subscribes = asyncio.Semaphore(_SUBSCRIBES)
        self._error: ListenerClosed | None = None
        self._last_id = random.randrange(_PACKET_IDS)
        self._replies: dict[int, tuple[asyncio.Future[Any], asyncio.Semaphore]] = {}
        self._released: dict[int, int] = {}
        """The reason codes of our QoS 2 messages between PUBREC and PUBCOMP."""

    def set_receive_maximum(self, receive_maximum: int) -> None:
        """Set how many messages may be in flight. Call it before the first one is."""
        self.messages = asyncio.Semaphore(min(receive_maximum, _PACKET_IDS - _SUBSCRIBES))

    async def reserve(self, slots: asyncio.Semaphore) -> tuple[int, asyncio.Future[Any]]:
        """Wait for a slot, in the order of the calls. Returns a packet identifier, and the answer to come.

        Both raise `ListenerClosed` when the connection ends. The packet must be sent in the same step.
        """
        await slots.acquire()
        if self._error is not None:
            slots.release()  # wakes the next waiter, which fails as well
            raise ListenerClosed(str(self._error))
        # There are fewer slots than identifiers, so one is free.
        self._last_id = self._last_id % _PACKET_IDS + 1
        while self._last_id in self._replies:
            self._last_id = self._last_id % _PACKET_IDS + 1
        reply = asyncio.get_running_loop().create_future()
        self._replies[self._last_id] = reply, slots
        return self._last_id, reply

    def resolve(self, packet_id: int, answer: object, slots: asyncio.Semaphore) -> None:
        """Answer the packet of ``slots`` with this identifier; ignore the answer to any other packet."""
        reply, its_slots = self._replies.get(packet_id, (None, None))
        if reply is not None and its_slots is slots:
            del self._replies[packet_id]
            slots.release()
            if not reply.done():
                reply.set_result(answer)

    def receive_ack(self, packet: Ack) -> None:
        """Handle a PUBACK, PUBREC or PUBCOMP."""
        packet_id, reason = packet.packet_id, packet.reason
        if packet.kind == packets.PUBREC and reason < packets.ERRORS:
            if packet_id in self._replies:
                self._released[packet_id] = reason
            self._write(packets.ack(packets.PUBREL, packet_id))
        else:
            self.resolve(packet_id, self._released.pop(packet_id, reason), self.messages)

    def fail(self, error: ListenerClosed) -> None:
        """Fail all callers."""
        self._error = error
        for reply, _ in self._replies.values():
            if not reply.done():
                reply.set_exception(ListenerClosed(str(error)))
        self.messages.release()
        self.subscribes.release()


class PublishAck:
    """The ack handle of one message: its PUBACK or PUBREC.

    MQTT wants acknowledgements in the order of the messages, so this one waits for those of all earlier messages of
    the connection, and awaiting it waits for them too.
    """

    __slots__ = ("_messages", "_waiter", "holders", "packet", "sent")

    def __init__(self, messages: IncomingMessages, packet: bytes) -> None:
        self.packet = packet
        self.holders = 1
        self.sent = False
        self._messages = messages
        self._waiter: asyncio.Future[None] | None = None

    def retain(self) -> None:
        """See `django_anyio_channels.core.events.AckHandle`."""
        self.holders += 1

    def release(self) -> PublishAck:
        """See `django_anyio_channels.core.events.AckHandle`; awaiting the result waits for all holders."""
        self.holders -= 1
        if not self.holders:
            self._messages.acknowledge()
        return self

    def wake(self) -> None:
        """Note that it was sent, or never will be."""
        if self._waiter is not None:
            self._waiter.set_result(None)

    def __await__(self) -> Generator[Any, Any, None]:
        if not self.sent and self._messages.error is None:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(self._waiter).__await__()
        if not self.sent:
            raise ListenerClosed(str(self._messages.error))


class IncomingMessages:
    """The broker's QoS 1 and 2 messages that are not acknowledged yet, in order."""

    def __init__(self, write: Write) -> None:
        self.error: ListenerClosed | None = None
        self._write = write
        self._unacknowledged: deque[PublishAck] = deque()
        self._unreleased: set[int] = set()
        """Packet identifiers of QoS 2 messages until their PUBREL; with one of these a message is a duplicate."""

    def add(self, message: Publish) -> PublishAck | None:
        """Return the ack handle of a message; None for a duplicate."""
        if message.qos == 2:
            if message.packet_id in self._unreleased:
                return None
            self._unreleased.add(message.packet_id)
        ack = PublishAck(self, packets.ack(packets.PUBREC if message.qos == 2 else packets.PUBACK, message.packet_id))
        self._unacknowledged.append(ack)
        return ack

    def receive_release(self, packet_id: int) -> None:
        """Handle a PUBREL."""
        self._unreleased.discard(packet_id)
        self._write(packets.ack(packets.PUBCOMP, packet_id))

    def acknowledge(self) -> None:
        """Acknowledge all messages without holders, up to the first one that has any: in order, as MQTT demands."""
        waiting = self._unacknowledged
        while waiting and not waiting[0].holders:
            ack = waiting.popleft()
            self._write(ack.packet)
            ack.sent = True
            ack.wake()

    def fail(self, error: ListenerClosed) -> None:
        """Fail all that is awaited."""
        self.error = error
        while self._unacknowledged:
            self._unacknowledged.popleft().wake()
