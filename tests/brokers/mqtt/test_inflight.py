"""Packet identifiers and the broker's answers, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

from django_anyio_channels import ListenerClosed
from django_anyio_channels.brokers.mqtt.inflight import OutgoingPackets
from django_anyio_channels.brokers.mqtt.packets import PUBACK, PUBCOMP, PUBREC, Ack
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio


@pytest.fixture
async def written() -> list[bytes]:
    return []


@pytest.fixture
async def outgoing(written: list[bytes]) -> AsyncIterator[OutgoingPackets]:
    with anyio.fail_after(TIME_LIMIT):
        yield OutgoingPackets(written.append)


async def test_a_packet_identifier_in_use_is_not_given_again(outgoing: OutgoingPackets) -> None:
    used, _ = await outgoing.reserve(outgoing.messages)
    outgoing._last_id = used - 1  # as after 65,535 others
    assert (await outgoing.reserve(outgoing.subscribes))[0] == used % 0xFFFF + 1


async def test_all_packet_identifiers_in_use(outgoing: OutgoingPackets) -> None:
    """The next callers wait until the broker answers a packet of their kind."""
    messages = [await outgoing.reserve(outgoing.messages) for _ in range(0xFFFF - 1024)]
    subscribes = [await outgoing.reserve(outgoing.subscribes) for _ in range(1024)]
    assert len({packet_id for packet_id, _ in [*messages, *subscribes]}) == 0xFFFF
    message = asyncio.create_task(outgoing.reserve(outgoing.messages))
    subscribe = asyncio.create_task(outgoing.reserve(outgoing.subscribes))
    await anyio.wait_all_tasks_blocked()
    outgoing.resolve(subscribes[500][0], b"\0", outgoing.subscribes)
    assert (await subscribe)[0] == subscribes[500][0]
    assert not message.done()
    outgoing.receive_ack(Ack(PUBACK, messages[500][0], 0))
    assert (await message)[0] == messages[500][0]
    assert [await messages[500][1], await subscribes[500][1]] == [0, b"\0"]


async def test_a_cancelled_caller_keeps_its_identifier_until_the_broker_answers(outgoing: OutgoingPackets) -> None:
    outgoing.set_receive_maximum(1)
    packet_id, reply = await outgoing.reserve(outgoing.messages)
    reply.cancel()
    following = asyncio.create_task(outgoing.reserve(outgoing.messages))
    await anyio.wait_all_tasks_blocked()
    assert not following.done()
    outgoing.receive_ack(Ack(PUBACK, packet_id, 0))
    assert (await following)[0] != packet_id


async def test_an_answer_of_the_wrong_kind_is_ignored(outgoing: OutgoingPackets) -> None:
    packet_id, reply = await outgoing.reserve(outgoing.messages)
    outgoing.resolve(packet_id, b"\0", outgoing.subscribes)
    assert not reply.done()
    outgoing.receive_ack(Ack(PUBACK, packet_id, 0x10))
    assert await reply == 0x10


async def test_qos_2_keeps_the_reason_code_of_pubrec(outgoing: OutgoingPackets, written: list[bytes]) -> None:
    packet_id, reply = await outgoing.reserve(outgoing.messages)
    unknown = packet_id % 0xFFFF + 1
    outgoing.receive_ack(Ack(PUBREC, unknown, 0x10))
    outgoing.receive_ack(Ack(PUBREC, packet_id, 0x10))
    assert written == [b"\x62\x02" + each.to_bytes(2, "big") for each in (unknown, packet_id)]
    outgoing.receive_ack(Ack(PUBCOMP, packet_id, 0))
    assert await reply == 0x10
    assert (await outgoing.reserve(outgoing.messages))[0] == unknown
    outgoing.receive_ack(Ack(PUBACK, unknown, 0))  # what came before for that identifier means nothing


async def test_all_callers_fail_when_the_connection_ends(outgoing: OutgoingPackets) -> None:
    outgoing.set_receive_maximum(1)
    _, reply = await outgoing.reserve(outgoing.messages)
    waiting = [asyncio.create_task(outgoing.reserve(outgoing.messages)) for _ in range(3)]
    await anyio.wait_all_tasks_blocked()
    outgoing.fail(ListenerClosed("the plug was pulled"))
    with pytest.raises(ListenerClosed, match="the plug was pulled"):
        await reply
    for each in waiting:
        with pytest.raises(ListenerClosed, match="the plug was pulled"):
            await each
