"""`django.nodes.node`: what a node does with its inbox, with outages, and with messages that no caller waits for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ..helpers import connection_of, layers, node_in, outage_of, soon


@pytest.mark.parametrize("queue", [False, True], ids=["specific", "normal"])
def test_a_message_can_be_put_back(queue: bool) -> None:
    async def main() -> None:
        (layer,) = layers(1, capacity=1)
        channel = await layer.new_channel()
        if queue:
            channel = "jobs"
        node = node_in(layer)
        await layer.send(channel, {"type": "n", "n": 1})
        received = await soon(layer.receive(channel))
        await layer.send(channel, {"type": "n", "n": 2})  # full again, which is no reason to lose it
        node.put_back(channel, received)
        found = [await soon(layer.receive(channel)) for _ in range(2)]
        assert sorted(message["n"] for message in found) == [1, 2]

    asyncio.run(main())


def test_members_get_the_outage_message(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (layer,) = layers(1, outage_message="chat.outage")
        member, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("g", member)
        waiting = asyncio.ensure_future(layer.receive(other))
        await asyncio.sleep(0)
        connection_of(layer).cut()
        message = await soon(layer.receive(member))
        assert message["type"] == "chat.outage"
        assert message["seconds"] > 0
        await layer.send(other, {"type": "no outage"})
        assert (await soon(waiting))["type"] == "no outage"
        assert layer.statistics()["outages"] == 1

    with caplog.at_level(logging.WARNING, logger="django_anyio_channels"):
        asyncio.run(main())
    assert "Reconnected to" in caplog.text


def test_members_get_the_outage_message_for_what_a_history_does_not_reach() -> None:
    async def main() -> None:
        (layer,) = layers(1, outage_message="chat.outage")
        in_g, in_h, alone = [await layer.new_channel() for _ in range(3)]
        await layer.group_add("g", in_g)
        await layer.group_add("h", in_h)
        node = node_in(layer)
        node.report_missed("asgi:g:g", 2.0)
        await layer.group_send("h", {"type": "no outage"})
        assert await soon(layer.receive(in_g)) == {"type": "chat.outage", "seconds": 2.0}
        assert await soon(layer.receive(in_h)) == {"type": "no outage"}
        node.report_missed(node.inbox, 3.0)
        for member in (in_g, in_h):
            while (message := await soon(layer.receive(member))) == {"type": "no outage"}:
                pass
            assert message == {"type": "chat.outage", "seconds": 3.0}
        await layer.send(alone, {"type": "no outage"})
        assert await soon(layer.receive(alone)) == {"type": "no outage"}

    asyncio.run(main())


def test_without_an_outage_message_missed_messages_are_silent() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        node = node_in(layer)
        node.report_missed("asgi:g:g", 2.0)
        await layer.group_send("g", {"type": "n", "n": 1})
        assert await soon(layer.receive(member)) == {"type": "n", "n": 1}

    asyncio.run(main())


def test_without_an_outage_message_an_outage_is_silent() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        connection_of(layer).cut()
        await soon(outage_of(layer))
        await layer.group_send("g", {"type": "n", "n": 1})
        assert await soon(layer.receive(member)) == {"type": "n", "n": 1}

    asyncio.run(main())


@pytest.mark.parametrize(
    "envelope",
    [b"no line feed", b"x.ffffffffffffffff!y\n\x80", b"\xff\xfe\n\x80", b"\nnot MessagePack"],
)
def test_what_is_addressed_to_no_channel_of_a_node_is_dropped(
    envelope: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        channel = await layer.new_channel()
        await layer._dispatcher.publish(node_in(layer).inbox, envelope)
        await layer._dispatcher.publish(node_in(layer).inbox, b"")  # a probe
        await layer.send(channel, {"type": "n", "n": 1})
        assert await soon(layer.receive(channel)) == {"type": "n", "n": 1}
        assert layer.statistics()["undecodable"] == 1

    asyncio.run(main())
    assert "Dropped a message for asgi:i:" in caplog.text
