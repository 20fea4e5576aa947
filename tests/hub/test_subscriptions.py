"""The registry of subscriptions, in moments that an open Channel cannot be brought to for sure."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels import Event, SubscriptionRefused
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.hub.session import Session
from django_anyio_channels.hub.subscriber import Subscriber
from django_anyio_channels.hub.subscriptions import SubscriptionRegistry
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, until

pytestmark = pytest.mark.anyio


def make_subscriber() -> Subscriber:
    return Subscriber(
        "room",
        capacity=10,
        expiry=None,
        decode=MessagePackSerializer().decode,
        new_waiter=waiter_type(),
        stats=DeliveryStats(),
    )


class Sessions:
    """A registry and the sessions that it is restored in."""

    def __init__(self, layer: ScriptedLayer) -> None:
        self.layer = layer
        self.current = self._new()
        self.registry = SubscriptionRegistry(layer, self._wait_connected, waiter_type(), _ignore, _ignore)

    async def begin(self) -> None:
        """Begin a session with the names that are wanted."""
        await self.layer.connect()
        self.current = self._new()
        await self.registry.restore(self.current)

    def _new(self) -> Session:
        return Session(self.layer, TIME_LIMIT, lambda session: None)

    async def _wait_connected(self) -> Session:
        return self.current


async def test_a_group_that_was_left_during_an_outage_is_not_restored() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    for name in ("left", "kept"):
        await sessions.registry.add_sink(name, subscriber)
    await layer.disconnect()
    sessions.registry.remove_sink("left", subscriber)
    await sessions.begin()
    assert layer.names == {"kept"}


async def test_a_refused_subscription_that_is_no_longer_wanted_is_not_retried() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    for name in ("left", "kept"):
        await sessions.registry.add_sink(name, subscriber)
    await layer.disconnect()
    layer.fail("subscribe", *[SubscriptionRefused("not now")] * 2)
    await sessions.begin()
    sessions.registry.remove_sink("left", subscriber)
    sessions.current.catches_up = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sessions.registry.retry_refused, 0)
        await until(lambda: layer.names)
        tasks.cancel_scope.cancel()
    assert layer.names == {"kept"}
    assert layer.count("subscribe") == 5


def _ignore(group: str, seconds: float | None) -> None:
    """Nothing is missed here."""


# ---- one sink that is added several times --------------------------------------------------------------------------


async def test_two_calls_that_add_one_sink_and_one_is_cancelled() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    release = layer.hold("subscribe")
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sessions.registry.add_sink, "room", subscriber)
            await until(lambda: layer.count("subscribe") == 1)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await sessions.registry.add_sink("room", subscriber)
            assert sessions.registry.has_sink("room", subscriber), "the other call still waits"
            release()
    assert sessions.registry.has_sink("room", subscriber)
    assert layer.names == {"room"}


async def test_the_last_call_that_fails_to_add_a_sink_removes_it() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    layer.hold("subscribe")
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(sessions.registry.add_sink, "room", subscriber)
            await until(lambda: layer.count("subscribe") == 1)
            await anyio.wait_all_tasks_blocked()
            assert sessions.registry.has_sink("room", subscriber)
            tasks.cancel_scope.cancel()
    assert not sessions.registry.has_sink("room", subscriber)


async def test_a_sink_that_is_removed_while_it_is_added_stays_removed() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    release = layer.hold("subscribe")
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sessions.registry.add_sink, "room", subscriber)
            await until(lambda: layer.count("subscribe") == 1)
            sessions.registry.remove_sink("room", subscriber)
            release()
    assert not sessions.registry.has_sink("room", subscriber)


async def test_adding_a_known_sink_in_a_new_session_waits_for_the_subscription() -> None:
    layer = ScriptedLayer()
    sessions, subscriber = Sessions(layer), make_subscriber()
    await sessions.begin()
    await sessions.registry.add_sink("room", subscriber)
    layer.fail("subscribe", SubscriptionRefused("not now"), SubscriptionRefused("nor now"))
    await layer.disconnect()
    await sessions.begin()
    assert layer.names == set()
    with pytest.raises(SubscriptionRefused, match="nor now"):
        await sessions.registry.add_sink("room", subscriber)
    assert sessions.registry.has_sink("room", subscriber), "the earlier call succeeded"
    await sessions.registry.add_sink("room", subscriber)
    assert layer.names == {"room"}


async def test_the_sinks_of_an_event_are_counted_by_group_pattern_and_composite_name() -> None:
    layer = ScriptedLayer()
    sessions = Sessions(layer)
    await sessions.begin()
    for name, pattern in (("g", False), ("a, b", False), ("g*", True)):
        for _ in range(2 if pattern else 1):
            await sessions.registry.add_sink(name, make_subscriber(), pattern=pattern)
    events = [Event("g", b""), Event("g", b"", "g*"), Event("a", b"", "a, b"), Event("h", b""), Event("h", b"", "h*")]
    assert [sessions.registry.count_sinks(event) for event in events] == [1, 2, 1, 0, 0]
