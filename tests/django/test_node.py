"""How nodes deal with each other, with garbage and with outages."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.core.exceptions import SubscriptionRefused
from django_anyio_channels.django.names import node_of

TIME_LIMIT = 10.0


class FrailLayer(InMemoryChannelLayer):
    """In memory, but its link can be cut, and groups called ``secret`` are refused."""

    def __init__(self, *, broker: InMemoryBroker) -> None:
        super().__init__(broker=broker)
        self.is_down = False

    async def connect(self) -> None:
        if self.is_down:
            raise ListenerClosed("the cable is out")
        await super().connect()

    async def subscribe(self, groups: str) -> None:
        if groups.endswith("secret"):
            raise SubscriptionRefused(f"{groups} is not for you")
        await super().subscribe(groups)

    def cut(self) -> None:
        """What happens to a link when its broker is killed."""
        assert self._inbox is not None
        self._inbox.close()


REPLY = {"number": "1", "answer_to": "0123456789abcdef"}


def layers(count: int, **config: Any) -> list[AnyioChannelLayer]:
    """As many processes on one broker."""
    options = {"broker": InMemoryBroker()}
    return [AnyioChannelLayer(layer=FrailLayer, options=options, **config) for _ in range(count)]


def link_of(layer: AnyioChannelLayer) -> FrailLayer:
    (node,) = layer._courier.nodes
    assert isinstance(node.channel.layer, FrailLayer)
    return node.channel.layer


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, TIME_LIMIT)


def frame_of(layer: AnyioChannelLayer, order: Any) -> bytes:
    return b"\n" + layer._settings.encode(order)


async def send_to_inbox(layer: AnyioChannelLayer, sender: AnyioChannelLayer, frame: bytes) -> None:
    """Put a frame into a node's inbox, and return when the node has read it."""
    channel = await layer.new_channel()
    node = node_of(channel)
    assert node is not None
    await sender._courier.publish(sender._naming.inbox(node), frame)
    await sender.send(channel, {"type": "after"})
    assert (await soon(layer.receive(channel)))["type"] == "after"


def test_a_refusal_by_another_nodes_broker_comes_back_to_who_asked() -> None:
    async def main() -> None:
        owner, asker = layers(2)
        channel = await owner.new_channel()
        with pytest.raises(ListenerClosed, match="secret is not for you"):
            await asker.group_add("secret", channel)
        with pytest.raises(SubscriptionRefused, match="secret is not for you"):
            await owner.group_add("secret", channel)
        assert owner.statistics()["channels"] == 0

    asyncio.run(main())


def test_a_node_that_does_not_answer_is_named() -> None:
    async def main() -> None:
        owner, asker = layers(2, publish_timeout=2.0)
        channel = await owner.new_channel()
        (node,) = owner._courier.nodes
        node._obey = silence  # type: ignore[method-assign]
        with pytest.raises(ListenerClosed, match=r"0 of 1 nodes answered within 2 s; the others are gone"):
            await asker.group_add("g", channel)

    async def silence(what: str, order: dict[str, Any]) -> None:
        pass

    asyncio.run(main())


def test_an_order_of_another_version_is_answered_so() -> None:
    async def main() -> None:
        owner, asker = layers(2)
        channel = await owner.new_channel()
        await asker.new_channel()
        (node,) = asker._courier.nodes
        with pytest.raises(ListenerClosed, match="does not know how to dance"):
            await node._ask(node.naming.inbox(str(node_of(channel))), {"do": "dance"})

    asyncio.run(main())


@pytest.mark.parametrize(
    "order", [{}, {"do": None, "number": "unknown", "failed": None}, {"number": 1}], ids=["empty", "stranger", "half"]
)
def test_an_answer_that_nobody_waits_for_is_dropped(order: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner, stranger = layers(2)
        await send_to_inbox(owner, stranger, frame_of(owner, order))
        assert owner.statistics()["undecodable"] == 1

    asyncio.run(main())
    assert "it is no order that this version knows" in caplog.text


@pytest.mark.parametrize(
    "order",
    [
        {"do": "join", "group": "g", "channel": "foreign", **REPLY},
        {"do": "join", "group": "g", "channel": "x.ffffffffffffffff!y", **REPLY},
        {"do": "leave", "group": "g", "channel": 5, **REPLY},
        {"do": "join", "group": ["g"], "channel": "x!y", **REPLY},
        {"do": ["flush"], **REPLY},
        {"do": "flush", "number": [1], "answer_to": "x"},
    ],
    ids=str,
)
def test_a_forged_order_is_dropped_and_disturbs_no_name(order: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A name that is not of this node would end the sweep, and with it expiry, as soon as somebody reads a prefix."""

    async def main() -> None:
        owner, stranger = layers(2, group_expiry=0.1, expiry=0.1)
        channel = await owner.new_channel()
        reading = asyncio.ensure_future(owner.receive(channel[: channel.index("!") + 1]))
        await stranger._courier.publish(owner._naming.inbox(str(node_of(channel))), frame_of(owner, order))
        await owner.send(channel, {"type": "after"})
        assert await soon(reading) == {"type": "after"}
        assert owner.statistics()["undecodable"] == 1
        await owner.group_add("g", channel)

        async def forgotten() -> None:
            while owner.statistics()["channels"]:
                await asyncio.sleep(0.01)

        await soon(forgotten())

    asyncio.run(main())
    assert "it is no order that this version knows" in caplog.text
    assert "Could not do" not in caplog.text


def test_an_order_that_cannot_be_answered_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner, stranger = layers(2)
        await owner.new_channel()
        (node,) = owner._courier.nodes

        async def no_link(topic: str, frame: bytes) -> int | None:
            raise ListenerClosed("the cable is out")

        node.channel.publish_payload = no_link  # type: ignore[method-assign,assignment]
        await send_to_inbox(owner, stranger, frame_of(owner, {"do": "dance", **REPLY}))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert "Could not do what another node asked for" in caplog.text


def test_a_node_that_closes_stops_obeying() -> None:
    async def main() -> None:
        owner, stranger = layers(2)
        channel = await owner.new_channel()
        (node,) = owner._courier.nodes
        begun = asyncio.Event()

        async def take_long(what: str, order: dict[str, Any]) -> None:
            begun.set()
            await asyncio.get_running_loop().create_future()

        node._obey = take_long  # type: ignore[method-assign]
        await stranger._courier.publish(
            node.naming.inbox(str(node_of(channel))), frame_of(owner, {"do": "wait", **REPLY})
        )
        await soon(begun.wait())
        await owner.close()
        assert node._orders == set()

    asyncio.run(main())


@pytest.mark.parametrize("queue", [False, True], ids=["specific", "normal"])
def test_what_a_caller_who_had_gone_was_given_can_be_put_back(queue: bool) -> None:
    async def main() -> None:
        (layer,) = layers(1, capacity=1)
        channel = await layer.new_channel()
        if queue:
            channel = "jobs"
        (node,) = layer._courier.nodes
        await layer.send(channel, {"n": 1})
        received = await soon(layer.receive(channel))
        await layer.send(channel, {"n": 2})  # full again, which is no reason to lose it
        node.put_back(channel, received)
        found = [await soon(layer.receive(channel)) for _ in range(2)]
        assert sorted(message["n"] for message in found) == [1, 2]

    asyncio.run(main())


def test_members_are_told_of_an_outage_if_the_settings_ask_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (layer,) = layers(1, outage_message="chat.outage")
        member, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("g", member)
        waiting = asyncio.ensure_future(layer.receive(other))
        await asyncio.sleep(0)
        link_of(layer).cut()
        message = await soon(layer.receive(member))
        assert message["type"] == "chat.outage"
        assert message["seconds"] > 0
        await layer.send(other, {"type": "no outage"})
        assert (await soon(waiting))["type"] == "no outage"
        assert layer.statistics()["outages"] == 1

    with caplog.at_level(logging.WARNING, logger="django_anyio_channels"):
        asyncio.run(main())
    assert "is back after" in caplog.text


def test_members_are_told_of_what_a_history_does_not_reach() -> None:
    async def main() -> None:
        (layer,) = layers(1, outage_message="chat.outage")
        in_g, in_h, alone = [await layer.new_channel() for _ in range(3)]
        await layer.group_add("g", in_g)
        await layer.group_add("h", in_h)
        (node,) = layer._courier.nodes
        node.report_missed(node.naming.group("g"), 2.0)
        await layer.group_send("h", {"type": "no outage"})
        assert await soon(layer.receive(in_g)) == {"type": "chat.outage", "seconds": 2.0}
        assert await soon(layer.receive(in_h)) == {"type": "no outage"}
        node.report_missed(node.naming.inbox(node.id), 3.0)
        for member in (in_g, in_h):
            while (message := await soon(layer.receive(member))) == {"type": "no outage"}:
                pass
            assert message == {"type": "chat.outage", "seconds": 3.0}
        await layer.send(alone, {"type": "no outage"})
        assert await soon(layer.receive(alone)) == {"type": "no outage"}

    asyncio.run(main())


def test_nobody_is_told_of_what_was_missed_otherwise() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        (node,) = layer._courier.nodes
        node.report_missed(node.naming.group("g"), 2.0)
        await layer.group_send("g", {"n": 1})
        assert await soon(layer.receive(member)) == {"n": 1}

    asyncio.run(main())


def test_nobody_is_told_of_an_outage_otherwise() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        link_of(layer).cut()
        await soon(outage_of(layer))
        await layer.group_send("g", {"n": 1})
        assert await soon(layer.receive(member)) == {"n": 1}

    asyncio.run(main())


def test_joining_again_in_vain_ends_no_membership() -> None:
    async def main() -> None:
        (layer,) = layers(1, publish_timeout=2.0)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        link = await take_down(layer)
        with pytest.raises(ListenerClosed, match=r"No link to memory:// for 2 s"):
            await layer.group_add("g", member)
        link.is_down = False
        while True:
            try:
                await layer.group_send("g", {"n": 1})
                break
            except ListenerClosed:
                continue
        assert await soon(layer.receive(member)) == {"n": 1}

    asyncio.run(main())


async def take_down(layer: AnyioChannelLayer) -> FrailLayer:
    """Cut the link of a layer, and let it stay down until told otherwise."""
    link = link_of(layer)
    link.is_down = True
    link.cut()
    await soon(outage_of(layer))
    return link


async def outage_of(layer: AnyioChannelLayer) -> None:
    """Return when the layer has lost its link."""
    while layer.statistics()["outages"] == 0:
        await asyncio.sleep(0)


def test_a_prefix_is_read_without_its_neighbours() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        one, other = await layer.new_channel("one"), await layer.new_channel("other")
        await layer.send(other, {"n": 1})
        await layer.send(one, {"n": 2})
        assert await soon(layer.receive(one[: one.index("!") + 1])) == {"n": 2}
        assert await soon(layer.receive(other)) == {"n": 1}

    asyncio.run(main())


class Consumer:
    """Whoever asks for a name."""


async def name_of(consumer: Consumer, layer: AnyioChannelLayer) -> str:
    await layer.new_channel()
    (node,) = layer._courier.nodes
    return node.names.new("specific", consumer)


async def forgotten() -> None:
    """Return when what nobody holds any more has ended."""
    gc.collect()
    await asyncio.sleep(0)


def test_what_is_on_its_way_to_a_consumer_that_has_ended_leaves_nothing() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        consumer = Consumer()
        name = await name_of(consumer, layer)
        await layer.group_add("g", name)
        assert layer.statistics()["channels"] == 1
        del consumer
        await forgotten()
        assert layer.statistics()["channels"] == 0
        await layer.send(name, {"n": 1})
        await layer.group_add("g", name)
        await layer.group_send("g", {"n": 2})
        assert layer.statistics()["channels"] == 0

    asyncio.run(main())


def test_a_consumers_name_outlives_it_while_somebody_else_waits_on_it() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        consumer = Consumer()
        name = await name_of(consumer, layer)
        waiting = asyncio.ensure_future(layer.receive(name))
        await asyncio.sleep(0)
        del consumer
        await forgotten()
        for number in (1, 2):
            await layer.send(name, {"n": number})
        assert await soon(waiting) == {"n": 1}
        assert await soon(layer.receive(name)) == {"n": 2}
        await layer.send(name, {"n": 3})
        assert await soon(layer.receive(name)) == {"n": 3}

    asyncio.run(main())


@pytest.mark.parametrize("left", [False, True], ids=["joined twice", "left between"])
def test_a_join_that_is_cancelled_takes_no_other_with_it(left: bool) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        channel = await layer.new_channel()
        link = await take_down(layer)
        first, second = (asyncio.ensure_future(layer.group_add("g", channel)) for _ in range(2))
        await asyncio.sleep(0)
        if left:
            await layer.group_discard("g", channel)
            second.cancel()
            await asyncio.wait([second])
            second = asyncio.ensure_future(layer.group_add("g", channel))
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        link.is_down = False
        await soon(second)
        await layer.group_send("g", {"n": 1})
        assert await soon(layer.receive(channel)) == {"n": 1}
        await layer.group_discard("g", channel)
        await layer.group_send("g", {"n": 2})
        await layer.send(channel, {"n": 3})
        assert await soon(layer.receive(channel)) == {"n": 3}

    asyncio.run(main())


def test_what_is_left_while_it_is_joined_stays_left_and_what_is_joined_again_stays_joined() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        left, kept = [await layer.new_channel() for _ in range(2)]
        await layer.group_add("g", kept)
        link = await take_down(layer)
        joins = [asyncio.ensure_future(layer.group_add("g", channel)) for channel in (left, kept)]
        await asyncio.sleep(0)
        await layer.group_discard("g", left)
        link.is_down = False
        await soon(asyncio.gather(*joins))
        await layer.group_send("g", {"n": 1})
        await layer.send(left, {"n": 2})
        assert await soon(layer.receive(kept)) == {"n": 1}
        assert await soon(layer.receive(left)) == {"n": 2}

    asyncio.run(main())


def test_joins_that_are_all_cancelled_leave_nothing() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        channel = await layer.new_channel()
        await take_down(layer)
        joins = [asyncio.ensure_future(layer.group_add("g", channel)) for _ in range(3)]
        await asyncio.sleep(0)
        for join in joins:
            join.cancel()
        await asyncio.wait(joins)
        assert layer.statistics()["channels"] == 0

    asyncio.run(main())
