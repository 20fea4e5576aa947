"""The hub against a layer that plays a script."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import msgpack
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from django_anyio_channels import (
    Backoff,
    BaseChannelLayer,
    Channel,
    DeliveryUnknown,
    Event,
    Gap,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
    PayloadTooLarge,
    Subscriber,
    SubscriptionRefused,
)
from django_anyio_channels.core.layer import subscribing
from tests.support.scripted import (
    TIME_LIMIT,
    Everywhere,
    ScriptedLayer,
    Silence,
    cancelled_at_every_await,
    cancelled_in_every_turn,
    until,
)

pytestmark = pytest.mark.anyio

AT_ONCE = Backoff(first=0.0, longest=0.0)
"""Connects again without waiting."""


def open_channel(
    layer: BaseChannelLayer,
    *,
    publish_timeout: float = TIME_LIMIT,
    on_gap: Callable[[float], None] | None = None,
    capacity: int = 100,
) -> Channel:
    return Channel(layer, backoff=AT_ONCE, publish_timeout=publish_timeout, on_gap=on_gap, capacity=capacity)


@asynccontextmanager
async def hub(layer: BaseChannelLayer, *, publish_timeout: float = TIME_LIMIT) -> AsyncIterator[Channel]:
    """An open Channel; the body has `TIME_LIMIT` seconds."""
    with anyio.fail_after(TIME_LIMIT):
        async with open_channel(layer, publish_timeout=publish_timeout) as channel:
            yield channel


async def received(subscriber: Subscriber, count: int) -> list[object]:
    return [(await subscriber.receive()).message for _ in range(count)]


def frame(message: object) -> bytes:
    packed: bytes = msgpack.packb(message)
    return packed


async def check_usable(channel: Channel, layer: ScriptedLayer) -> None:
    """Nothing is left of what was there before, and a new subscription works."""
    await until(lambda: channel.subscriptions == 0 and not layer.names)
    with anyio.fail_after(TIME_LIMIT):
        async with channel.subscribe("check") as subscriber:
            await channel.publish("check", "still usable")
            assert await received(subscriber, 1) == ["still usable"]
    await until(lambda: channel.subscriptions == 0 and not layer.names)


# ---- publish and subscribe ---------------------------------------------------------------------------------------


async def test_a_subscriber_gets_what_is_published() -> None:
    async with hub(InMemoryChannelLayer()) as channel, channel.subscribe("chatroom") as subscriber:
        await channel.publish("chatroom", {"message": "Message"})
        async for event in subscriber:
            assert event == Event("chatroom", {"message": "Message"})
            break


async def test_one_subscription_to_several_groups_and_a_pattern() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        async with channel.subscribe("a", "b", pattern="room.*") as subscriber:
            for group in ("a", "c", "room.1", "b", "room"):
                await channel.publish(group, group)
            assert [await subscriber.receive() for _ in range(3)] == [
                Event("a", "a"),
                Event("room.1", "room.1", subscription="room.*"),
                Event("b", "b"),
            ]
            assert len(subscriber) == 0


async def test_an_event_that_matches_twice_comes_twice() -> None:
    async with hub(InMemoryChannelLayer()) as channel, channel.subscribe("room.1", pattern="room.*") as subscriber:
        await channel.publish("room.1", "x")
        assert {(await subscriber.receive()).subscription for _ in range(2)} == {None, "room.*"}


async def test_every_subscriber_gets_its_own_object() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        async with channel.subscribe("g") as one, channel.subscribe("g") as two:
            message = {"list": [1]}
            await channel.publish("g", message)
            message["list"].append(2)
            first = (await one.receive()).message
            first["list"].append(3)
            assert (await two.receive()).message == {"list": [1]}


async def test_the_broker_is_told_once_of_a_group_with_many_subscribers() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        async with channel.subscribe("g"):
            async with channel.subscribe("g") as other, channel.subscribe("g"):
                pass
            await checkpoint()
            assert [call for call in layer.calls if "g" in call] == [("subscribe", "g")]
            async with channel.subscribe("g") as other:
                await channel.publish("g", 1)
                assert await received(other, 1) == [1]
        await until(lambda: channel.subscriptions == 0)
        assert [call for call in layer.calls if call[0].endswith("subscribe")] == [
            ("subscribe", "g"),
            ("unsubscribe", "g"),
        ]


async def test_a_group_subscribed_again_while_it_is_unsubscribed_is_heard() -> None:
    layer = ScriptedLayer(pauses=3)
    async with hub(layer) as channel:
        for steps in range(15):
            async with channel.subscribe("g"):
                pass
            for _ in range(steps):
                await checkpoint()
            async with channel.subscribe("g") as subscriber:
                await channel.publish("g", steps)
                assert await received(subscriber, 1) == [steps]
        await check_usable(channel, layer)


async def test_a_custom_layer_that_splits_a_name() -> None:
    """The documented way of extending: one name for the hub, several for the wire."""

    class Splitting(ScriptedLayer):
        def __init__(self) -> None:
            super().__init__()
            self.wanted_by: dict[str, str] = {}

        async def subscribe(self, groups: str) -> None:
            for group in groups.split(";"):
                await super().subscribe(group)
                self.wanted_by[group] = subscribing.get()

        async def unsubscribe(self, groups: str) -> None:
            for group in groups.split(";"):
                await super().unsubscribe(group)

        async def next_published(self) -> Event[bytes]:
            event = await super().next_published()
            event.subscription = self.wanted_by[event.group]
            return event

    layer = Splitting()
    async with hub(layer) as channel:
        async with channel.subscribe("a;b") as subscriber:
            await channel.publish("a", 1)
            await channel.publish("b", 2)
            events = [await subscriber.receive() for _ in range(2)]
            assert [(event.group, event.message) for event in events] == [("a", 1), ("b", 2)]
        await check_usable(channel, layer)


async def test_publish_returns_what_the_broker_says() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        assert (await channel.publish("g", 1)).receivers == 0
        async with channel.subscribe("g"), channel.subscribe("g"):
            assert (await channel.publish("g", 1)).receivers == 1


async def test_a_slow_subscriber_costs_its_own_mailbox_only() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        async with channel.subscribe("g", capacity=3) as slow, channel.subscribe("g", capacity=1000) as quick:
            for number in range(200):
                await channel.publish("g", number)
            assert await received(quick, 200) == list(range(200))
            assert await received(slow, 3) == [0, 1, 2]
            assert (slow.dropped, quick.dropped, channel.stats.dropped) == (197, 0, 197)


async def test_leaving_by_break_move_on_and_cancellation_leaves_the_channel_usable() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        async with channel.subscribe("g") as subscriber:
            await channel.publish("g", 1)
            async for _ in subscriber:
                break
        with anyio.move_on_after(0.01):
            async with channel.subscribe("g") as subscriber:
                async for _ in subscriber:
                    pass
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                async with channel.subscribe("g") as subscriber:
                    await subscriber.receive()

            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await check_usable(channel, layer)


async def test_a_subscriber_that_was_left_ends() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        async with channel.subscribe("g") as subscriber:
            pass
        with pytest.raises(ListenerClosed, match="g is closed"):
            await subscriber.receive()


async def test_subscribing_to_nothing_is_a_mistake() -> None:
    async with hub(InMemoryChannelLayer()) as channel:
        with pytest.raises(TypeError, match="at least one group or a pattern"):
            async with channel.subscribe():
                pass


async def test_a_channel_that_is_not_open_says_how_to_open_it() -> None:
    channel = Channel(InMemoryChannelLayer())
    with pytest.raises(ListenerClosed, match="inside `async with`"):
        await channel.publish("g", 1)
    with pytest.raises(ListenerClosed, match="memory://"):
        async with channel.subscribe("g"):
            pass
    async with channel:
        with pytest.raises(RuntimeError, match="open already"):
            await channel.__aenter__()
        await channel.publish("g", 1)
    with pytest.raises(ListenerClosed, match="not open"):
        await channel.publish("g", 1)


async def test_a_channel_can_be_opened_again() -> None:
    channel = open_channel(ScriptedLayer())
    for number in range(3):
        async with channel, channel.subscribe("g") as subscriber:
            await channel.publish("g", number)
            assert await received(subscriber, 1) == [number]


# ---- what cannot be sent or read ---------------------------------------------------------------------------------


async def test_what_cannot_be_encoded_is_refused_and_breaks_nothing() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        with pytest.raises(TypeError, match="cannot be sent"):
            await channel.publish("g", {"set": {1}})
        await channel.publish("g", "fine")
        assert await received(subscriber, 1) == ["fine"]
        assert [group for group, _ in layer.published] == ["g"]


async def test_what_is_too_large_names_the_limit() -> None:
    layer = ScriptedLayer()
    async with Channel(layer, max_message_size=100) as channel, channel.subscribe("g") as subscriber:
        with pytest.raises(PayloadTooLarge, match=r"has 103 bytes; max_message_size is 100"):
            await channel.publish("g", b"x" * 101)
        await channel.publish("g", b"x" * 98)
        assert await received(subscriber, 1) == [b"x" * 98]


async def test_a_foreign_frame_is_logged_counted_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer(Event("g", b"\xc1 not a message"), Event("g", frame(1) + b"tail"))
    async with hub(layer) as channel:
        release = layer.hold("next_published")
        async with channel.subscribe("g") as subscriber:
            release()
            await channel.publish("g", "fine")
            assert await received(subscriber, 1) == ["fine"]
            layer.play(Event("g", frame("after")))
            assert await received(subscriber, 1) == ["after"]
            assert channel.stats.undecodable == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("Dropped a message for g" in record.getMessage() for record in caplog.records)


# ---- supervision -------------------------------------------------------------------------------------------------

CLOSED = ListenerClosed("the link broke")


@pytest.mark.parametrize("verb", ["connect", "next_published"])
@pytest.mark.parametrize("error", [ListenerClosed("the link broke"), OSError("what is this?"), ZeroDivisionError()])
async def test_an_error_of_the_connection_begins_a_new_life(verb: str, error: Exception) -> None:
    layer = ScriptedLayer()
    layer.fail(verb, error, error, error)
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        await until(lambda: layer.count("connect") == 4 and channel.connected)
        await channel.connected()
        await until(lambda: "g" in layer.names)
        await channel.publish("g", "after")
        assert await received(subscriber, 1) == ["after"]


async def test_every_subscription_is_restored_in_a_new_life() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        async with channel.subscribe("a", "b") as one, channel.subscribe("b", pattern="p.*") as two:
            async with channel.subscribe("gone"):
                pass
            await until(lambda: "gone" not in layer.names)
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
            await channel.connected()
            assert layer.names == {"a", "b", "p.*"}
            for group in ("a", "b", "p.1"):
                await channel.publish(group, group)
            assert await received(one, 2) == ["a", "b"]
            assert await received(two, 2) == ["b", "p.1"]
            assert channel.outages == 1


async def test_the_reader_runs_before_the_subscriptions_are_restored() -> None:
    """On some brokers the acknowledgement of a subscription comes through the reader."""
    layer = ScriptedLayer()
    layer.reads_before_subscribe = True
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        layer.play(CLOSED)
        await until(lambda: layer.sessions == 2)
        await channel.publish("g", "after")
        assert await received(subscriber, 1) == ["after"]


async def test_what_is_sent_when_the_link_is_back_finds_the_subscriptions() -> None:
    """`publish` waits for the link until the subscriptions are subscriptions_restored: a node always hears itself."""
    layer = ScriptedLayer(pauses=5)
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        for number in range(5):
            layer.play(CLOSED)
            await until(lambda: layer.sessions == number + 2)
            await channel.publish("g", number)
            assert await received(subscriber, 1) == [number]


async def test_publish_during_an_outage_waits_for_the_link() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        release = layer.hold("connect")
        layer.play(CLOSED)
        await until(lambda: layer.count("connect") == 2)
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(channel.publish, "g", number)
            await anyio.wait_all_tasks_blocked()
            assert not layer.published
            release()
        assert set(await received(subscriber, 10)) == set(range(10))


async def test_publish_during_a_long_outage_raises_and_has_sent_nothing() -> None:
    layer = ScriptedLayer()
    layer.hold("connect")
    async with hub(layer, publish_timeout=0.05) as channel:
        with pytest.raises(ListenerClosed, match=r"No connection to scripted://fake for 0\.05 s") as caught:
            await channel.publish("g", 1)
        assert not isinstance(caught.value, DeliveryUnknown)
        assert "Check that the broker runs" in str(caught.value)
    assert layer.count("publish") == 0


async def test_an_outage_error_tells_why_the_link_is_down() -> None:
    layer = ScriptedLayer()
    layer.fail("connect", *[ListenerClosed("connection refused by fake:1")] * 10_000)
    async with hub(layer, publish_timeout=0.05) as channel:
        await until(lambda: layer.count("connect") >= 2)
        with pytest.raises(ListenerClosed, match="connection refused by fake:1"):
            await channel.publish("g", 1)


async def test_a_connect_that_never_answers_is_tried_again() -> None:
    layer = ScriptedLayer()
    layer.hold("connect")
    async with hub(layer, publish_timeout=0.05) as channel:
        await until(lambda: layer.count("connect") >= 2)
        with pytest.raises(ListenerClosed, match="did not answer within 0.05 s"):
            await channel.publish("g", 1)


async def test_a_publish_whose_fate_is_unknown_raises_and_is_not_repeated() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        layer.fail("publish", ListenerClosed("broke off"))
        with pytest.raises(DeliveryUnknown, match=r"message to g was on its way.*may or may not.*broke off"):
            await channel.publish("g", "unknown")
        assert layer.count("publish") == 1
        await channel.publish("g", "known")
        assert await received(subscriber, 1) == ["known"]


async def test_a_publish_under_way_when_the_link_breaks_raises() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        release = layer.hold("publish")
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                with pytest.raises(DeliveryUnknown):
                    await channel.publish("g", 1)

            tasks.start_soon(publish)
            tasks.start_soon(publish)
            await until(lambda: layer.count("publish") == 2)
            layer.play(CLOSED)
        release()
        await channel.publish("g", 2)
        assert layer.published == [("g", frame(2))]


async def test_an_error_of_publish_that_is_not_the_links_goes_to_the_sender() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        layer.fail("publish", PayloadTooLarge("the broker takes 5 bytes"))
        with pytest.raises(PayloadTooLarge, match="the broker takes 5 bytes"):
            await channel.publish("g", 1)
        await channel.publish("g", 2)
        assert layer.sessions == 1


@pytest.mark.parametrize("verb", ["publish", "put", "take", "bind", "unbind", "purge", "subscribe", "unsubscribe"])
async def test_whoever_meets_the_dead_connection_first_ends_that_life(verb: str) -> None:
    """The reader hears nothing of it: it sits in a silence that nobody ends."""
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        async with channel.subscribe("unwanted"):
            silence = Silence()
            layer.play(silence)
            layer.fail(verb, ListenerClosed("dead"))
        if verb == "publish":
            with pytest.raises(DeliveryUnknown):
                await channel.publish("g", 0)
        elif verb == "put":
            with pytest.raises(DeliveryUnknown, match="to queue q"):
                await channel.queues.put("q", b"x", capacity=1, expiry=1)
        elif verb == "take":
            await channel.queues.put("q", b"x", capacity=1, expiry=1)
            assert await channel.queues.take("q") == b"x"
        elif verb == "bind":
            await channel.queues.bind("g", "q", capacity=1, expiry=1, lifetime=1)
        elif verb == "unbind":
            await channel.queues.unbind("g", "q")
        elif verb == "purge":
            await channel.queues.purge("q")
        elif verb == "subscribe":
            async with channel.subscribe("another") as another:
                silence.over.set()
                await channel.publish("another", 1)
                assert await received(another, 1) == [1]
        await until(lambda: layer.sessions == 2)
        await channel.connected()
        silence.over.set()
        await channel.publish("g", "after")
        assert await received(subscriber, 1) == ["after"]


@pytest.mark.parametrize("verb", ["publish", "unbind", "bind"])
async def test_whoever_tries_again_at_once_lets_the_next_life_begin(verb: str) -> None:
    """The layer raises without waiting for anything, and so does nobody let the link's own task run."""
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        layer.fail(verb, ListenerClosed("dead"))
        outcomes = 0
        while layer.sessions == 1:
            outcomes += 1
            assert outcomes < 1000
            if verb == "publish":
                with suppress(DeliveryUnknown):
                    await channel.publish("g", 1)
            elif verb == "unbind":
                await channel.queues.unbind("g", "q")
            else:
                await channel.queues.bind("g", "q", capacity=1, expiry=1, lifetime=1)
        assert channel.outages == 1


async def test_take_outlives_outages() -> None:
    layer = ScriptedLayer()
    async with hub(layer, publish_timeout=0.01) as channel:
        taken: list[bytes] = []

        async def take() -> None:
            taken.append(await channel.queues.take("q"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await until(lambda: layer.count("take") == 1)
            release = layer.hold("connect")
            layer.play(CLOSED)
            await until(lambda: layer.count("connect") >= 4)
            release()
            await until(lambda: layer.count("take") == 2)
            await layer.put("q", b"late", capacity=1, expiry=1)
        assert taken == [b"late"]


async def test_subscribing_during_an_outage_waits_for_the_link() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        release = layer.hold("connect")
        layer.play(CLOSED)
        await until(lambda: layer.count("connect") == 2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.lowlevel.checkpoint)

            async def listen() -> None:
                async with channel.subscribe("g") as subscriber:
                    assert "g" in layer.names
                    await channel.publish("g", 1)
                    assert await received(subscriber, 1) == [1]

            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            release()


async def test_joining_a_group_during_an_outage_waits_for_the_link_too() -> None:
    """Another subscriber has the group already, but in no life: nothing that is published now would be seen."""
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g"):
        release = layer.hold("connect")
        layer.play(CLOSED)
        await until(lambda: layer.count("connect") == 2)
        entered = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                async with channel.subscribe("g"):
                    assert "g" in layer.names
                    entered.set()

            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            assert not entered.is_set()
            release()
        assert entered.is_set()


async def test_subscribing_during_a_long_outage_raises_and_leaves_nothing() -> None:
    layer = ScriptedLayer()
    release = layer.hold("connect")
    async with hub(layer, publish_timeout=1.0) as channel:
        with pytest.raises(ListenerClosed, match="No connection to scripted://fake"):
            async with channel.subscribe("a", "b"):
                pass
        await until(lambda: channel.subscriptions == 0)
        release()
        await until(lambda: layer.open)
        await check_usable(channel, layer)
        assert {call[1] for call in layer.calls if call[0] == "subscribe"} == {"check"}


async def test_a_refused_subscription_raises_and_leaves_nothing() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        async with channel.subscribe("b") as subscriber:
            layer.fail("subscribe_pattern", SubscriptionRefused("no permission for b*"))
            with pytest.raises(SubscriptionRefused, match="no permission"):
                async with channel.subscribe("a", "b", pattern="b*"):
                    pass
            await until(lambda: channel.subscriptions == 1)
            await channel.publish("b", 1)
            assert await received(subscriber, 1) == [1]
        await check_usable(channel, layer)
        assert layer.sessions == 1


async def test_a_pattern_where_there_are_none_raises_and_leaves_nothing() -> None:
    class Plain(ScriptedLayer):
        subscribe_pattern = BaseChannelLayer.subscribe_pattern
        unsubscribe_pattern = BaseChannelLayer.unsubscribe_pattern

    layer = Plain()
    async with hub(layer) as channel:
        with pytest.raises(NotSupported, match="Plain has no pattern subscriptions"):
            async with channel.subscribe(pattern="b*"):
                pass
        await check_usable(channel, layer)


async def test_a_group_that_cannot_be_restored_is_tried_again_and_the_others_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missed: list[tuple[str, float]] = []
    layer = ScriptedLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with (
            Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: missed.append(what)) as channel,
            channel.subscribe("a") as first,
            channel.subscribe("b") as second,
        ):
            layer.fail("subscribe", SubscriptionRefused("not now"), ZeroDivisionError("a mistake"))
            layer.fail("subscribe", SubscriptionRefused("nor now"))
            layer.play(CLOSED)
            await until(lambda: len(missed) == 2)
            for name, subscriber in (("a", first), ("b", second)):
                await channel.publish(name, name)
                assert await received(subscriber, 1) == [name]
    assert layer.sessions == 2
    assert sorted(name for name, _ in missed) == ["a", "b"]
    assert all(seconds >= 0 for _, seconds in missed)
    told = [record for record in caplog.records if "Could not restore the subscription to" in record.getMessage()]
    assert [bool(record.exc_info) for record in told] == [False, True, False]
    assert "not now" in told[0].getMessage()
    assert caplog.text.count("what was published meanwhile is lost") == 3, "once for the link, once for each group"


async def test_what_was_refused_is_restored_like_all_else_in_the_next_life() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("a") as subscriber:
        layer.fail("subscribe", SubscriptionRefused("not now"), ListenerClosed("gone"))
        layer.play(CLOSED)
        await until(lambda: layer.sessions == 3)
        await channel.connected()
        await channel.publish("a", 1)
        assert await received(subscriber, 1) == [1]


async def test_an_unsubscribe_that_fails_is_logged_and_the_hub_lives(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        layer.fail("unsubscribe", OSError("what is this?"))
        async with channel.subscribe("g"):
            pass
        await until(lambda: channel.subscriptions == 0)
        assert [record.getMessage() for record in caplog.records] == ["Could not unsubscribe from g"]
        layer.names.clear()
        await check_usable(channel, layer)


async def test_a_life_lost_while_restoring_is_followed_by_another() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("a", "b", "c") as subscriber:
        layer.fail("subscribe", ListenerClosed("again"), ListenerClosed("and again"))
        layer.play(CLOSED)
        await until(lambda: layer.sessions >= 3)
        await channel.connected()
        assert layer.names == {"a", "b", "c"}
        await channel.publish("b", "after")
        assert await received(subscriber, 1) == ["after"]


async def test_an_unexpected_exception_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        layer.play(ZeroDivisionError("oh"))
        await until(lambda: layer.sessions == 2)
        await check_usable(channel, layer)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True]
    assert "Unexpected error of ScriptedLayer" in errors[0].getMessage()


@pytest.mark.parametrize("error", [ListenerClosed("gone anyway"), OSError("what is this?")])
async def test_a_disconnect_that_fails_is_logged_and_followed_by_a_new_life(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        layer.fail("disconnect", error)
        layer.play(CLOSED)
        await until(lambda: layer.sessions == 2)
        await check_usable(channel, layer)
    assert any("while disconnecting from scripted://fake" in record.getMessage() for record in caplog.records)


async def test_a_disconnect_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("django_anyio_channels.hub.session._DISCONNECT_SECONDS", 0.02)
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        await channel.connected()
        release = layer.hold("disconnect")
        layer.play(CLOSED)
        await until(lambda: layer.sessions == 2)
        release()
        await check_usable(channel, layer)
    assert any("Disconnecting from scripted://fake took more than" in record.getMessage() for record in caplog.records)


# ---- gaps and backoff --------------------------------------------------------------------------------------------


async def test_a_gap_is_reported_when_the_link_is_back(caplog: pytest.LogCaptureFixture) -> None:
    layer, gaps = ScriptedLayer(), []
    names_at_report = []

    def on_gap(seconds: float) -> None:
        gaps.append(seconds)
        names_at_report.append(set(layer.names))

    layer.fail("connect", ListenerClosed("not yet"))
    with anyio.fail_after(TIME_LIMIT):
        async with open_channel(layer, on_gap=on_gap) as channel, channel.subscribe("g"):
            assert (gaps, channel.outages) == ([], 0), "the first connection ends no gap"
            layer.fail("connect", ListenerClosed("refused"), ListenerClosed("refused"))
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
            await channel.connected()
            assert (len(gaps), channel.outages) == (1, 1)
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 3)
            await channel.connected()
            assert (len(gaps), channel.outages) == (2, 2)
    assert all(seconds > 0 for seconds in gaps)
    assert names_at_report == [{"g"}, {"g"}], "the report comes when the subscriptions are in effect"
    assert (
        len([record for record in caplog.records if "what was published meanwhile is lost" in record.getMessage()]) == 2
    )


async def test_a_gap_report_that_fails_does_not_kill_the_hub(caplog: pytest.LogCaptureFixture) -> None:
    def on_gap(seconds: float) -> None:
        raise ZeroDivisionError("the user's own mistake")

    layer = ScriptedLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with open_channel(layer, on_gap=on_gap) as channel:
            await channel.connected()
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
            await check_usable(channel, layer)
    assert any(record.exc_info is not None for record in caplog.records)


class RememberingLayer(ScriptedLayer):
    """Catches up by itself after an outage, or plays a `Gap`."""

    def subscriptions_restored(self) -> bool:
        return True


async def test_a_layer_that_catches_up_late_has_missed_nothing() -> None:
    missed: list[tuple[str, float]] = []
    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: missed.append(what)) as channel:
            async with channel.subscribe("g") as subscriber:
                layer.fail("subscribe", SubscriptionRefused("not now"))
                layer.play(CLOSED)
                await until(lambda: layer.sessions == 2 and "g" in layer.names)
                await channel.publish("g", 1)
                assert await received(subscriber, 1) == [1]
    assert missed == []


async def test_a_layer_that_catches_up_has_no_gap_reported(caplog: pytest.LogCaptureFixture) -> None:
    layer = RememberingLayer()
    gaps: list[float] = []
    with anyio.fail_after(TIME_LIMIT):
        async with open_channel(layer, on_gap=gaps.append) as channel:
            await channel.connected()
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
            await check_usable(channel, layer)
    assert gaps == []
    assert "is back after" in caplog.text
    assert "is lost" not in caplog.text


async def test_what_a_layer_could_not_catch_up_is_reported_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    def on_missed(group: str, seconds: float) -> None:
        told.append(group)
        assert seconds >= 0
        raise ZeroDivisionError("the user's own mistake")

    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=on_missed) as channel:
            async with channel.subscribe("g") as subscriber:
                layer.play(Event("g", b"\x01"), Gap("g", b""), Event("g", b"\x02"))
                assert [(await anext(subscriber)).message for _ in range(2)] == [1, 2]
    assert told == ["g"]
    assert "history of g does not reach back" in caplog.text
    assert any(record.exc_info is not None for record in caplog.records), "the mistake is logged, and ends nothing"


async def test_a_gap_while_the_link_is_down_is_as_long_as_the_outage() -> None:
    told: list[tuple[str, float]] = []
    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: told.append(what)) as channel:
            async with channel.subscribe("g"):
                layer.fail("subscribe", ListenerClosed("not yet"))
                layer.play(CLOSED, Gap("g", b""))
                await until(lambda: told)
    [(group, seconds)] = told
    assert group == "g"
    assert seconds > 0


async def test_a_gap_while_the_link_was_up_has_a_length_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, float]] = []
    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: told.append(what)) as channel:
            async with channel.subscribe("g"):
                layer.play(Gap("g", b"", seconds=0.25))
                await until(lambda: told)
    assert told == [("g", 0.25)]
    assert "g has moved within" in caplog.text
    assert "took 0.25 s; what was published meanwhile may be lost" in caplog.text


@given(
    first=st.floats(min_value=0.001, max_value=1),
    factor=st.floats(min_value=1, max_value=1000),
    failures=st.integers(min_value=0, max_value=10_000),
)
def test_backoff_doubles_up_to_its_cap_with_jitter(first: float, factor: float, failures: int) -> None:
    backoff = Backoff(first=first, longest=first * factor)
    full = min(first * factor, first * 2.0 ** min(failures, 40))
    delays = [backoff.delay(failures) for _ in range(5)]
    assert all(full / 2 * 0.999 <= delay <= full * 1.001 for delay in delays)
    assert len(set(delays)) > 1, "nodes that lost the broker together must not come back together"


async def test_failures_in_a_row_are_counted_for_the_backoff() -> None:
    asked: list[int] = []

    class Recording(Backoff):
        def delay(self, failures: int) -> float:
            asked.append(failures)
            return 0.0

    layer = ScriptedLayer()
    layer.fail("connect", *[ListenerClosed("refused")] * 4)
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=Recording(longest=100.0)) as channel:
            await channel.connected()
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
    assert asked == [1, 2, 3, 4, 5], "a link that held for a moment only is no success"


async def test_a_link_that_held_begins_the_backoff_anew() -> None:
    asked: list[int] = []

    class Recording(Backoff):
        def delay(self, failures: int) -> float:
            asked.append(failures)
            return 0.0

    layer = ScriptedLayer()
    layer.fail("connect", *[ListenerClosed("refused")] * 2)
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=Recording(longest=0.01)) as channel:
            await channel.connected()
            await anyio.sleep(0.05)
            layer.play(CLOSED)
            await until(lambda: layer.sessions == 2)
    assert asked[2:] == [0]


# ---- the end of a channel ----------------------------------------------------------------------------------------


async def test_the_end_of_the_channel_ends_every_subscriber_after_what_waits() -> None:
    layer = ScriptedLayer()
    read: list[object] = []
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            async with open_channel(layer) as channel:
                subscription = channel.subscribe("g")
                subscriber = await subscription.__aenter__()
                await channel.publish("g", 1)
                await channel.publish("g", 2)
                await until(lambda: len(subscriber) == 2)
                empty = channel.subscribe("h")
                waiting = await empty.__aenter__()

                async def wait() -> None:
                    async for event in waiting:
                        read.append(event)

                tasks.start_soon(wait)
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
        assert [event.message async for event in subscriber] == [1, 2]
        assert read == []
        with pytest.raises(ListenerClosed):
            await subscriber.receive()
        await subscription.__aexit__(None, None, None)
        await empty.__aexit__(None, None, None)


async def test_the_end_of_the_channel_ends_every_waiting_call() -> None:
    layer = ScriptedLayer()
    layer.hold("connect")
    ended = 0
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            async with open_channel(layer) as channel:

                async def call(verb: str) -> None:
                    nonlocal ended
                    with pytest.raises(ListenerClosed, match="scripted://fake"):
                        if verb == "publish":
                            await channel.publish("g", 1)
                        elif verb == "take":
                            await channel.queues.take("q")
                        elif verb == "connected":
                            await channel.connected()
                        else:
                            async with channel.subscribe("g"):
                                pass
                    ended += 1

                for verb in ("publish", "take", "connected", "subscribe"):
                    tasks.start_soon(call, verb)
                await anyio.wait_all_tasks_blocked()
    assert ended == 4


async def test_the_end_of_the_channel_ends_calls_that_are_under_way() -> None:
    layer = ScriptedLayer()
    ended = 0
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            async with open_channel(layer) as channel:
                await channel.connected()
                for verb in ("publish", "take", "subscribe"):
                    layer.hold(verb)

                async def publish() -> None:
                    nonlocal ended
                    with pytest.raises(DeliveryUnknown):
                        await channel.publish("g", 1)
                    ended += 1

                async def take() -> None:
                    nonlocal ended
                    with pytest.raises(ListenerClosed):
                        await channel.queues.take("q")
                    ended += 1

                async def subscribe() -> None:
                    nonlocal ended
                    with pytest.raises(ListenerClosed):
                        async with channel.subscribe("g"):
                            pass
                    ended += 1

                for call in (publish, take, subscribe):
                    tasks.start_soon(call)
                await until(lambda: layer.count("publish") == layer.count("take") == layer.count("subscribe") == 1)
    assert ended == 3
    assert not layer.open


async def test_an_error_in_the_body_closes_the_channel_and_comes_out() -> None:
    layer = ScriptedLayer()
    with pytest.raises(ZeroDivisionError):
        async with open_channel(layer) as channel, channel.subscribe("g"):
            raise ZeroDivisionError
    assert not layer.open
    with pytest.raises(ListenerClosed):
        await channel.publish("g", 1)


# ---- cancelled at every await ------------------------------------------------------------------------------------

EVERYWHERE = pytest.mark.parametrize("everywhere", [cancelled_at_every_await, cancelled_in_every_turn])


@EVERYWHERE
async def test_a_conversation_cancelled_anywhere_leaves_the_channel_usable(everywhere: Everywhere) -> None:
    layer = ScriptedLayer(pauses=2)
    async with hub(layer) as channel:

        async def scenario() -> None:
            async with channel.subscribe("a", "b", pattern="c*") as subscriber:
                await channel.publish("a", 1)
                assert await received(subscriber, 1) == [1]
                async with channel.subscribe("b") as other:
                    await channel.publish("b", 2)
                    assert await received(subscriber, 1) == [2]
                    assert await received(other, 1) == [2]
                await channel.publish("c1", 3)
                assert await received(subscriber, 1) == [3]

        assert await everywhere(scenario, lambda: check_usable(channel, layer)) > 15
        assert layer.sessions == 1, "a cancelled call is no reason to connect again"


@EVERYWHERE
async def test_a_channel_cancelled_anywhere_leaves_nothing_open(everywhere: Everywhere) -> None:
    layer = ScriptedLayer(pauses=1)

    async def scenario() -> None:
        async with open_channel(layer) as channel, channel.subscribe("a") as subscriber:
            await channel.publish("a", 1)
            assert await received(subscriber, 1) == [1]
            layer.play(ListenerClosed("broke"))
            await until(lambda: channel.outages)
            await channel.connected()
            await channel.publish("a", 2)
            assert await received(subscriber, 1) == [2]

    async def check() -> None:
        assert not layer.open
        assert layer.readers == 0
        layer.script.clear()
        async with open_channel(layer) as channel:
            await check_usable(channel, layer)

    with anyio.fail_after(TIME_LIMIT):
        assert await everywhere(scenario, check) > 5


@EVERYWHERE
async def test_a_wait_for_the_link_cancelled_anywhere_leaves_the_channel_usable(everywhere: Everywhere) -> None:
    """Publishers and subscribers go away while the link is down and while it comes up."""
    layer = ScriptedLayer(pauses=2)
    async with hub(layer) as channel:

        async def scenario() -> None:
            layer.play(ListenerClosed("broke"))
            lives = layer.sessions
            while layer.sessions == lives:
                await checkpoint()
            async with channel.subscribe("a") as subscriber:
                await channel.publish("a", 1)
                assert await received(subscriber, 1) == [1]

        async def check() -> None:
            layer.script.clear()
            await check_usable(channel, layer)

        assert await everywhere(scenario, check) > 10


@EVERYWHERE
async def test_events_survive_the_cancellation_of_a_reader_anywhere(everywhere: Everywhere) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        sent, seen = 0, []

        async def scenario() -> None:
            nonlocal sent
            for _ in range(3):
                sent += 1
                layer.play(Event("g", frame(sent)))
                seen.append((await subscriber.receive()).message)

        async def check() -> None:
            while len(seen) < sent:
                seen.append((await subscriber.receive()).message)
            assert seen == list(range(1, sent + 1))

        assert await everywhere(scenario, check) > 2


@EVERYWHERE
async def test_one_of_two_cancelled_subscribers_does_not_take_the_group_away(everywhere: Everywhere) -> None:
    layer = ScriptedLayer(pauses=2)
    async with hub(layer) as channel, channel.subscribe("g") as steady:

        async def scenario() -> None:
            async with channel.subscribe("g"):
                await channel.publish("other", 1)

        async def check() -> None:
            await channel.publish("g", "steady")
            assert await received(steady, 1) == ["steady"]
            assert layer.names == {"g"}

        assert await everywhere(scenario, check) > 1


async def test_two_tasks_that_subscribe_at_once_and_one_is_cancelled() -> None:
    """The one that stays must not rely on the call to the broker that the other one gave up."""
    for steps in range(12):
        layer = ScriptedLayer(pauses=4)
        async with hub(layer) as channel:
            await channel.connected()
            async with anyio.create_task_group() as staying:
                heard = anyio.Event()

                async def stay() -> None:
                    async with channel.subscribe("g") as subscriber:
                        assert "g" in layer.names
                        await channel.publish("g", 1)
                        assert await received(subscriber, 1) == [1]
                        heard.set()

                async def leave() -> None:
                    async with channel.subscribe("g") as subscriber:
                        await subscriber.receive()

                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(leave)
                    await checkpoint()
                    staying.start_soon(stay)
                    for _ in range(steps):
                        await checkpoint()
                    leaving.cancel_scope.cancel()
                await heard.wait()
            await check_usable(channel, layer)


# ---- sinks -------------------------------------------------------------------------------------------------------


async def test_a_mailbox_may_come_to_listen_to_groups_later() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        mailbox = channel.mailbox("me", capacity=2, expiry=None)
        assert (mailbox.capacity, mailbox.expiry) == (2, 60.0)
        await channel.add_sink("a", mailbox)
        await channel.add_sink("a", mailbox)
        await channel.add_sink("b", mailbox)
        await channel.publish("a", 1)
        assert await received(mailbox, 1) == [1]
        channel.remove_sink("a", mailbox)
        await channel.publish("a", 2)
        await channel.publish("b", 3)
        assert await received(mailbox, 1) == [3]
        channel.remove_sink("b", mailbox)
        channel.remove_sink("never", mailbox)
        await check_usable(channel, layer)


async def test_an_event_for_nobody_is_ignored() -> None:
    layer = ScriptedLayer(Event("nobody", frame(1)), Event("x", frame(2), subscription="unknown*"))
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        await channel.publish("g", 3)
        assert await received(subscriber, 1) == [3]
        await until(lambda: not layer.script)


@pytest.mark.anyio
async def test_a_call_that_an_old_life_left_pending_is_waited_for_by_the_new_one() -> None:
    """A layer whose calls end later than its contract allows still gets each name subscribed once more."""

    class Slow(InMemoryChannelLayer):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.asked = anyio.Event(), anyio.Event()
            self.subscribed: list[str] = []

        async def subscribe(self, groups: str) -> None:
            self.subscribed.append(groups)
            if len(self.subscribed) == 1:
                self.asked.set()
                await self.gate.wait()
                raise ListenerClosed("too late")
            await super().subscribe(groups)

    layer = Slow()
    async with hub(layer) as channel, anyio.create_task_group() as tasks:

        async def listen() -> None:
            async with channel.subscribe("g") as subscriber:
                assert await received(subscriber, 1) == ["after"]

        await channel.connected()
        tasks.start_soon(listen)
        await layer.asked.wait()
        assert layer._inbox is not None
        layer._inbox.close()
        await until(lambda: channel.outages == 1)
        await until(lambda: layer._inbox is not None)
        await anyio.wait_all_tasks_blocked()
        layer.gate.set()
        await until(lambda: "g" in layer.broker._topics)
        await channel.publish("g", "after")
    assert layer.subscribed == ["g", "g"]
