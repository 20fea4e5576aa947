"""The hub over a layer that plays a script: publishing, subscribing, and the end; cancelled anywhere."""

from __future__ import annotations

import logging

import anyio
import pytest
from anyio.lowlevel import checkpoint

from django_anyio_channels import (
    Channel,
    DeliveryUnknown,
    Event,
    InMemoryChannelLayer,
    ListenerClosed,
    PayloadTooLarge,
    PublishResult,
)
from django_anyio_channels.core.layer import subscribing
from tests.support.scripted import (
    TIME_LIMIT,
    Everywhere,
    ScriptedLayer,
    cancelled_at_every_await,
    cancelled_in_every_turn,
    until,
)

from .helpers import check_usable, encoded, hub, open_channel, received

pytestmark = pytest.mark.anyio


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


async def test_a_group_with_many_subscribers_is_subscribed_to_once() -> None:
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


async def test_a_group_subscribed_again_while_it_is_unsubscribed_is_received() -> None:
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
    """The documented way of extending: one name for the hub, several for the broker."""

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


@pytest.mark.parametrize("answer", [None, 3, PublishResult(), PublishResult(3, "1-1")])
async def test_a_custom_layer_may_return_a_result_or_a_number_or_nothing(answer: PublishResult | int | None) -> None:
    class Custom(ScriptedLayer):
        async def publish(self, group: str, message: bytes) -> PublishResult | int | None:  # type: ignore[override]
            return answer

    async with hub(Custom()) as channel:
        result = await channel.publish("g", 1)
    assert isinstance(result, PublishResult)
    assert result == (answer if isinstance(answer, PublishResult) else PublishResult(answer))


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
        with pytest.raises(RuntimeError, match="already open"):
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


async def test_a_foreign_payload_is_logged_counted_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer(Event("g", b"\xc1 not a message"), Event("g", encoded(1) + b"tail"))
    async with hub(layer) as channel:
        release = layer.hold("next_published")
        async with channel.subscribe("g") as subscriber:
            release()
            await channel.publish("g", "fine")
            assert await received(subscriber, 1) == ["fine"]
            layer.play(Event("g", encoded("after")))
            assert await received(subscriber, 1) == ["after"]
            assert channel.stats.undecodable == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("Dropped a message for g" in record.getMessage() for record in caplog.records)


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


async def test_the_end_of_the_channel_ends_calls_in_flight() -> None:
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
async def test_a_scenario_cancelled_anywhere_leaves_the_channel_usable(everywhere: Everywhere) -> None:
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
async def test_a_wait_for_the_connection_cancelled_anywhere_leaves_the_channel_usable(everywhere: Everywhere) -> None:
    """Publishers and subscribers are cancelled during an outage and at its end."""
    layer = ScriptedLayer(pauses=2)
    async with hub(layer) as channel:

        async def scenario() -> None:
            layer.play(ListenerClosed("broke"))
            sessions = layer.sessions
            while layer.sessions == sessions:
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
                layer.play(Event("g", encoded(sent)))
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
    """The one that stays must not rely on the call to the broker that was cancelled with the other one."""
    for steps in range(12):
        layer = ScriptedLayer(pauses=4)
        async with hub(layer) as channel:
            await channel.connected()
            async with anyio.create_task_group() as staying:
                received_one = anyio.Event()

                async def stay() -> None:
                    async with channel.subscribe("g") as subscriber:
                        assert "g" in layer.names
                        await channel.publish("g", 1)
                        assert await received(subscriber, 1) == [1]
                        received_one.set()

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
                await received_one.wait()
            await check_usable(channel, layer)


# ---- sinks -------------------------------------------------------------------------------------------------------


async def test_a_mailbox_may_be_added_to_groups_later() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        mailbox = channel.mailbox("me", capacity=2, expiry=None)
        assert (mailbox.capacity, mailbox.expiry) == (2, 60.0)
        await channel.add_sink("a", mailbox)
        await channel.add_sink("a", mailbox)
        await channel.add_sink("b", mailbox)
        assert channel.has_sink("a", mailbox)
        await channel.publish("a", 1)
        assert await received(mailbox, 1) == [1]
        channel.remove_sink("a", mailbox)
        assert not channel.has_sink("a", mailbox)
        await channel.publish("a", 2)
        await channel.publish("b", 3)
        assert await received(mailbox, 1) == [3]
        channel.remove_sink("b", mailbox)
        channel.remove_sink("never", mailbox)
        await check_usable(channel, layer)


async def test_an_event_without_a_sink_is_ignored() -> None:
    layer = ScriptedLayer(Event("unwanted", encoded(1)), Event("x", encoded(2), subscription="unknown*"))
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        await channel.publish("g", 3)
        assert await received(subscriber, 1) == [3]
        await until(lambda: not layer.script)


@pytest.mark.anyio
async def test_a_call_that_an_old_session_left_pending_is_waited_for_by_the_new_one() -> None:
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
