"""One connection over a transport that does what a test says: moments that no real broker can be made to hit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from django_anyio_channels import DeliveryUnknown, ListenerClosed
from django_anyio_channels.brokers.common.watchdog import Watchdog
from django_anyio_channels.brokers.mqtt import connection
from django_anyio_channels.brokers.mqtt.address import make_options
from django_anyio_channels.brokers.mqtt.connection import MQTTConnection
from django_anyio_channels.brokers.mqtt.inflight import PublishAck
from django_anyio_channels.brokers.mqtt.packets import (
    CONNACK,
    DISCONNECT_PACKET,
    NO_PROPERTIES,
    PINGREQ_PACKET,
    Publish,
    pack_packet,
    pack_properties,
)
from tests.support.layers import TIME_LIMIT
from tests.support.scripted import until

pytestmark = pytest.mark.anyio

ACCEPTED = b"\x20\x03\x00\x00\x00"


def message(payload: bytes, qos: int = 0, packet_id: int = 0) -> bytes:
    """A PUBLISH of the broker to the topic ``t``."""
    body = b"\x00\x01t" + (packet_id.to_bytes(2, "big") if qos else b"") + b"\x00" + payload
    return bytes([0x30 | qos << 1, len(body)]) + body


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


class FakeTransport(asyncio.WriteTransport):
    """Records what is written. Like uvloop's transports, it is no `asyncio.Transport`."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.protocol: MQTTConnection
        self.closed = False
        self.broker_closes = True
        """When it receives DISCONNECT."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if data == DISCONNECT_PACKET and self.broker_closes:
            self.abort()

    def abort(self) -> None:
        if not self.closed:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        self.closed = True

    def packet_ids(self) -> list[int]:
        """Of the PUBLISH packets at QoS 1 to the topic ``t``."""
        return [int.from_bytes(each[5:7], "big") for each in self.written if each[0] == 0x32]


class Peer(MQTTConnection):
    """A connection whose broker and observer is the test."""

    def __init__(self, **options: Any) -> None:
        self.received: list[bytes] = []
        self.ack_handles: list[PublishAck] = []
        self.ended: list[ListenerClosed] = []
        super().__init__(make_options("mqtt://broker.example", **options), self)
        self.transport = FakeTransport()
        self.transport.protocol = self
        self.connection_made(self.transport)

    def message_received(self, message: Publish, ack_handle: PublishAck | None) -> None:
        self.received.append(message.payload)
        if ack_handle is not None:
            self.ack_handles.append(ack_handle)

    def connection_ended(self, error: ListenerClosed) -> None:
        self.ended.append(error)

    async def connect(self, connack: bytes = ACCEPTED) -> None:
        accepted = asyncio.create_task(self.handshake())
        await anyio.wait_all_tasks_blocked()
        self.data_received(connack)
        self.transport.written.clear()
        await accepted

    async def send(self, qos: int = 1) -> int:
        return await self.publish(b"t", b"x", qos=qos, retain=False, properties=NO_PROPERTIES)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """One that lets a single message be in flight."""
    one = Peer()
    await one.connect(b"\x20\x06\x00\x00\x03\x21\x00\x01")
    with anyio.fail_after(TIME_LIMIT):
        yield one
        await one.close()


async def blocked(*tasks: asyncio.Task[int]) -> None:
    """Wait until the tasks are blocked."""
    await anyio.wait_all_tasks_blocked()
    assert not any(task.done() for task in tasks)


async def test_a_slot_of_a_cancelled_publisher_goes_to_the_next(peer: Peer) -> None:
    first, second, third = [asyncio.create_task(peer.send()) for _ in range(3)]
    await blocked(first, second, third)
    peer.data_received(puback(*peer.transport.packet_ids()))
    second.cancel()  # it has its slot, and has not run since
    assert await first == 0
    await blocked(third)
    peer.data_received(puback(peer.transport.packet_ids()[-1]))
    assert await third == 0
    assert second.cancelled()
    assert len(peer.transport.packet_ids()) == 2


async def test_a_publisher_that_waits_for_a_slot_knows_that_nothing_was_sent(peer: Peer) -> None:
    sent, waiting = [asyncio.create_task(peer.send()) for _ in range(2)]
    await blocked(sent, waiting)
    peer.fail("the plug was pulled")
    with pytest.raises(DeliveryUnknown, match="the plug was pulled; a message was not acknowledged yet"):
        await sent
    with pytest.raises(ListenerClosed, match="the plug was pulled$") as caught:
        await waiting
    assert not isinstance(caught.value, DeliveryUnknown)


async def test_an_acknowledgement_of_something_else_is_ignored(peer: Peer) -> None:
    task = asyncio.create_task(peer.send())
    await blocked(task)
    (packet_id,) = peer.transport.packet_ids()
    peer.data_received(puback(packet_id ^ 1) + b"\x90\x04" + (packet_id ^ 1).to_bytes(2, "big") + b"\0\0")
    await blocked(task)
    peer.data_received(puback(packet_id))
    assert await task == 0


async def test_a_transport_that_takes_no_more_slows_publishers_down(peer: Peer) -> None:
    peer.pause_writing()
    tasks = [asyncio.create_task(peer.send(qos=0)) for _ in range(3)]
    await blocked(*tasks)
    assert peer.transport.written == []
    peer.resume_writing()
    assert await asyncio.gather(*tasks) == [0, 0, 0]
    assert len(b"".join(peer.transport.written)) == 3 * len(message(b"x"))


async def test_a_publisher_that_waits_for_the_transport_fails_with_the_connection(peer: Peer) -> None:
    peer.pause_writing()
    task = asyncio.create_task(peer.send(qos=0))
    await blocked(task)
    peer.fail("the plug was pulled")
    with pytest.raises(ListenerClosed, match="the plug was pulled"):
        await task


async def test_a_malformed_packet_ends_the_connection(peer: Peer) -> None:
    peer.data_received(b"\x15\x03\x03\x00\x02\x02\x0a")  # an alert of TLS
    with pytest.raises(ListenerClosed, match=r"mqtt://broker\.example:1883: the broker sent data that is not MQTT"):
        peer.check()


async def test_packets_after_disconnect_are_ignored(peer: Peer) -> None:
    peer.data_received(message(b"before") + b"\xe0\x01\x8b" + message(b"after"))
    peer.data_received(message(b"later"))
    with pytest.raises(ListenerClosed, match="the broker ended the connection: Server shutting down"):
        peer.check()
    assert peer.received == [b"before"]


async def test_a_second_connack_is_ignored(peer: Peer) -> None:
    peer.data_received(ACCEPTED + ACCEPTED)
    await peer.handshake()
    assert peer.answer.receive_maximum == 1
    peer.check()


async def test_a_message_at_qos_2_that_comes_again_before_its_release_is_not_delivered_again(peer: Peer) -> None:
    peer.data_received(message(b"one", 2, 7) * 2 + b"\x62\x02\x00\x07" + message(b"two", 2, 7))
    assert peer.received == [b"one", b"two"]


async def test_a_refused_message_frees_its_slot(peer: Peer) -> None:
    send = partial(peer.publish, b"t", b"x", qos=2, retain=False, properties=NO_PROPERTIES)
    for _ in range(2):
        task = asyncio.create_task(send())
        await blocked(task)
        peer.data_received(b"\x50\x03" + peer.transport.written[-1][5:7] + b"\x87")
        assert await task == 0x87


async def test_the_end_is_reported_once(peer: Peer) -> None:
    peer.fail("the plug was pulled")
    peer.fail("too late")
    assert [str(error) for error in peer.ended] == ["mqtt://broker.example:1883: the plug was pulled"]


async def test_a_broker_that_does_not_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CLOSE_SECONDS", 0.01)
    one = Peer()
    await one.connect()
    one.transport.broker_closes = False
    await one.close()
    assert one.transport.written == [DISCONNECT_PACKET]
    assert one.transport.closed


async def test_a_connection_that_was_never_accepted_raises_and_reports_nothing() -> None:
    one = Peer()
    handshake = asyncio.create_task(one.handshake())
    await anyio.wait_all_tasks_blocked()
    one.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(
        ListenerClosed, match=r"the connection broke \(reset\) before it answered. It requires TLS on this port"
    ):
        await handshake
    assert one.ended == []
    await one.close()


# ---- keep alive --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe_interval", "keepalive", "server_keep_alive", "expected"),
    [(10.0, 60, None, 10.0), (10.0, 7, None, 7), (10.0, 60, 5, 5), (10.0, 7, 20, 10.0), (10.0, 7, 0, 10.0)],
)
async def test_the_broker_receives_something_as_often_as_it_wants(
    monkeypatch: pytest.MonkeyPatch,
    probe_interval: float,
    keepalive: int,
    server_keep_alive: int | None,
    expected: float,
) -> None:
    intervals: list[float] = []

    def watchdog(interval: float, *rest: Any, **options: Any) -> Watchdog:
        intervals.append(interval)
        return Watchdog(interval, *rest, **options)

    monkeypatch.setattr(connection, "Watchdog", watchdog)
    properties = b"" if server_keep_alive is None else b"\x13" + server_keep_alive.to_bytes(2, "big")
    one = Peer(probe_interval=probe_interval, keepalive=keepalive)
    await one.connect(pack_packet(CONNACK, b"\0\0" + pack_properties(more=properties)))
    assert intervals == [expected]
    await one.close()


async def test_a_connection_that_is_busy_inwards_is_probed() -> None:
    """The broker counts what it receives, not what it sends."""
    one = Peer(probe_interval=0.04)
    await one.connect()

    def probed() -> bool:
        one.data_received(message(b"x"))
        return PINGREQ_PACKET in one.transport.written

    for _ in range(2):
        await until(probed)
        one.transport.written.clear()
    await one.close()


async def test_a_silent_connection_ends() -> None:
    one = Peer(probe_interval=0.04)
    await one.connect()
    await until(lambda: one.ended)
    assert str(one.ended[0]) == "mqtt://broker.example:1883: no answer for 0.04 s (probe_interval)"
    await one.close()


# ---- acknowledgements of what the broker sent --------------------------------------------------------------------


def acknowledged(peer: Peer) -> list[int]:
    return [int.from_bytes(each[2:4], "big") for each in peer.transport.written if each[0] == 0x40]


async def test_messages_are_acknowledged_in_the_order_in_which_they_came(peer: Peer) -> None:
    peer.data_received(message(b"one", 1, 1) + message(b"two", 1, 2))
    first, second = peer.ack_handles
    second_sent = asyncio.ensure_future(second.release())
    await anyio.wait_all_tasks_blocked()
    assert not second_sent.done()
    first.retain()
    first.release()
    assert acknowledged(peer) == []
    await first.release()
    await second_sent
    await anyio.wait_all_tasks_blocked()
    assert acknowledged(peer) == [1, 2]


async def test_several_tasks_may_wait_for_one_acknowledgement(peer: Peer) -> None:
    peer.data_received(message(b"one", 1, 1))
    (ack_handle,) = peer.ack_handles
    ack_handle.retain()
    first = asyncio.ensure_future(ack_handle.release())
    again = asyncio.ensure_future(ack_handle)
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    ack_handle.release()
    await again
    assert first.cancelled()


async def test_an_acknowledgement_that_cannot_be_sent_raises(peer: Peer) -> None:
    peer.data_received(message(b"one", 1, 1) + message(b"two", 1, 2))
    first, second = peer.ack_handles
    waiting = asyncio.ensure_future(second.release())
    await anyio.wait_all_tasks_blocked()
    peer.fail("the plug was pulled")
    for too_late in (waiting, first.release()):
        with pytest.raises(ListenerClosed, match="the plug was pulled"):
            await too_late
    assert acknowledged(peer) == []
