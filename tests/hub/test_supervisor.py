"""Lost connections: what waits, what is restored, and what is reported as missed."""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_anyio_channels import (
    Backoff,
    BaseChannelLayer,
    Channel,
    DeliveryUnknown,
    Event,
    Gap,
    ListenerClosed,
    MQTTChannelLayer,
    NotSupported,
    PayloadTooLarge,
    PostgreSQLChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
    SubscriptionRefused,
)
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, Silence, until

from .helpers import AT_ONCE, check_usable, encoded, hub, open_channel, received

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "layer",
    [
        RedisPubSubChannelLayer("redis://localhost:1"),
        RedisStreamsChannelLayer("redis://localhost:1"),
        PostgreSQLChannelLayer("postgresql://localhost:1/shop"),
        MQTTChannelLayer("mqtt://localhost:1"),
    ],
    ids=lambda layer: layer.address,
)
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_layers_of_asyncio_are_refused_on_trio(layer: BaseChannelLayer) -> None:
    with anyio.fail_after(TIME_LIMIT):
        with pytest.raises(NotSupported, match=f"{type(layer).__name__} runs on asyncio only"):
            async with Channel(layer):
                pass


# ---- supervision -------------------------------------------------------------------------------------------------

CLOSED = ListenerClosed("the connection broke")


@pytest.mark.parametrize("verb", ["connect", "next_published"])
@pytest.mark.parametrize("error", [ListenerClosed("broke"), OSError("what is this?"), ZeroDivisionError()])
async def test_an_error_of_the_connection_begins_a_new_session(verb: str, error: Exception) -> None:
    layer = ScriptedLayer()
    layer.fail(verb, error, error, error)
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        await until(lambda: layer.count("connect") == 4 and channel.connected)
        await channel.connected()
        await until(lambda: "g" in layer.names)
        await channel.publish("g", "after")
        assert await received(subscriber, 1) == ["after"]


async def test_every_subscription_is_restored_in_a_new_session() -> None:
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


async def test_what_is_published_when_the_connection_is_back_finds_the_subscriptions() -> None:
    """`publish` waits until the subscriptions are restored: a node always receives what it publishes."""
    layer = ScriptedLayer(pauses=5)
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        for number in range(5):
            layer.play(CLOSED)
            await until(lambda: layer.sessions == number + 2)
            await channel.publish("g", number)
            assert await received(subscriber, 1) == [number]


async def test_publish_during_an_outage_waits_for_the_connection() -> None:
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


async def test_an_outage_error_tells_why_the_connection_is_down() -> None:
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


async def test_a_publish_of_unknown_outcome_raises_and_is_not_repeated() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        layer.fail("publish", ListenerClosed("broke off"))
        with pytest.raises(DeliveryUnknown, match=r"message to g was on its way.*may or may not.*broke off"):
            await channel.publish("g", "unknown")
        assert layer.count("publish") == 1
        await channel.publish("g", "known")
        assert await received(subscriber, 1) == ["known"]


async def test_a_publish_in_flight_when_the_connection_breaks_raises() -> None:
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
        assert layer.published == [("g", encoded(2))]


async def test_an_error_of_publish_that_is_not_the_connections_goes_to_the_sender() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        layer.fail("publish", PayloadTooLarge("the broker takes 5 bytes"))
        with pytest.raises(PayloadTooLarge, match="the broker takes 5 bytes"):
            await channel.publish("g", 1)
        await channel.publish("g", 2)
        assert layer.sessions == 1


@pytest.mark.parametrize("verb", ["publish", "put", "take", "bind", "unbind", "purge", "subscribe", "unsubscribe"])
async def test_the_first_call_that_meets_a_dead_connection_ends_the_session(verb: str) -> None:
    """The reader does not notice: nothing comes, and nothing ends that."""
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("g") as subscriber:
        async with channel.subscribe("unused"):
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
async def test_a_caller_that_tries_again_at_once_lets_the_next_session_begin(verb: str) -> None:
    """The layer raises without waiting, so the call itself does not let the supervisor's task run."""
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


async def test_subscribing_during_an_outage_waits_for_the_connection() -> None:
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


async def test_another_subscriber_of_a_group_waits_for_the_connection_during_an_outage_too() -> None:
    """The group is wanted already, but subscribed to in no session: nothing that is published now would be seen."""
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


async def test_a_group_that_cannot_be_restored_is_retried_and_the_others_go_on(
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
    errors = [record for record in caplog.records if "Could not restore the subscription to" in record.getMessage()]
    assert [bool(record.exc_info) for record in errors] == [False, True, False]
    assert "not now" in errors[0].getMessage()
    assert caplog.text.count("messages sent meanwhile were lost") == 3, "for the connection, and for each group"


async def test_a_refused_subscription_is_restored_in_the_next_session() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("a") as subscriber:
        layer.fail("subscribe", SubscriptionRefused("not now"), ListenerClosed("gone"))
        layer.play(CLOSED)
        await until(lambda: layer.sessions == 3)
        await channel.connected()
        await channel.publish("a", 1)
        assert await received(subscriber, 1) == [1]


async def test_an_unsubscribe_that_fails_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        layer.fail("unsubscribe", OSError("what is this?"))
        async with channel.subscribe("g"):
            pass
        await until(lambda: channel.subscriptions == 0)
        assert [record.getMessage() for record in caplog.records] == ["Could not unsubscribe from g"]
        layer.names.clear()
        await check_usable(channel, layer)


async def test_a_session_lost_while_restoring_is_followed_by_another() -> None:
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
    [text] = [record.getMessage() for record in errors]
    assert text.startswith("Unexpected error in ScriptedLayer; reconnecting\nTraceback (most recent call last):")
    assert "ZeroDivisionError: oh" in text
    assert errors[0].exc_info is None, "error reports would show the local variables of the frames"


@pytest.mark.parametrize("error", [ListenerClosed("gone anyway"), OSError("what is this?")])
async def test_a_disconnect_that_fails_is_logged_and_followed_by_a_new_session(
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


async def test_a_disconnect_that_hangs_is_abandoned(
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


async def test_a_gap_is_reported_when_the_connection_is_back(caplog: pytest.LogCaptureFixture) -> None:
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
    assert len([record for record in caplog.records if "messages sent meanwhile were lost" in record.getMessage()]) == 2


async def test_a_gap_report_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
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
    assert "Reconnected to" in caplog.text
    assert "is lost" not in caplog.text


async def test_what_a_layer_could_not_catch_up_is_reported_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    reported: list[object] = []

    def on_missed(group: str, seconds: float) -> None:
        reported.append(group)
        assert seconds >= 0
        raise ZeroDivisionError("the user's own mistake")

    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=on_missed) as channel:
            async with channel.subscribe("g") as subscriber:
                layer.play(Event("g", b"\x01"), Gap("g", b""), Event("g", b"\x02"))
                assert [(await anext(subscriber)).message for _ in range(2)] == [1, 2]
    assert reported == ["g"]
    assert "history of g does not cover the outage" in caplog.text
    assert any(record.exc_info is not None for record in caplog.records), "the mistake is logged, and ends nothing"


async def test_a_gap_while_the_connection_is_down_is_as_long_as_the_outage() -> None:
    reported: list[tuple[str, float]] = []
    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: reported.append(what)) as channel:
            async with channel.subscribe("g"):
                layer.fail("subscribe", ListenerClosed("not yet"))
                layer.play(CLOSED, Gap("g", b""))
                await until(lambda: reported)
    [(group, seconds)] = reported
    assert group == "g"
    assert seconds > 0


async def test_a_gap_while_the_connection_was_up_has_a_length_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    reported: list[tuple[str, float]] = []
    layer = RememberingLayer()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, backoff=AT_ONCE, on_missed=lambda *what: reported.append(what)) as channel:
            async with channel.subscribe("g"):
                layer.play(Gap("g", b"", seconds=0.25))
                await until(lambda: reported)
    assert reported == [("g", 0.25)]
    assert "g has moved within" in caplog.text
    assert "took 0.25 s; messages sent meanwhile may be lost" in caplog.text


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
    assert asked == [1, 2, 3, 4, 5], "a connection that held for a moment only is no success"


async def test_a_connection_that_held_begins_the_backoff_anew() -> None:
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
