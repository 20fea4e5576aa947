"""The table of subscriptions, where no open Channel can bring the moment about for sure."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels import SubscriptionRefused
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.hub.subscriber import Subscriber
from django_anyio_channels.hub.subscriptions import SubscriptionRegistry
from django_anyio_channels.hub.supervisor import Session
from tests.support.scripted import ScriptedLayer, until

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


async def test_what_was_left_since_the_link_broke_is_not_subscribed_to_again() -> None:
    layer = ScriptedLayer()
    lives = [Session(lambda session: None) for _ in range(2)]
    topics = SubscriptionRegistry(layer, lambda: _is(lives[0]), waiter_type(), _ignore, _ignore)
    subscriber = make_subscriber()
    await layer.connect()
    await topics.restore(lives[0])
    for name in ("left", "kept"):
        await topics.add_sink(name, subscriber)
    await layer.disconnect()
    topics.remove_sink("left", subscriber)
    await layer.connect()
    await topics.restore(lives[1])
    assert layer.names == {"kept"}


async def test_what_was_refused_and_is_no_longer_wanted_is_not_tried_again() -> None:
    layer = ScriptedLayer()
    session = Session(lambda session: None)
    topics = SubscriptionRegistry(layer, lambda: _is(session), waiter_type(), _ignore, _ignore)
    subscriber = make_subscriber()
    await layer.connect()
    for name in ("left", "kept"):
        await topics.add_sink(name, subscriber)
    layer.fail("subscribe", *[SubscriptionRefused("not now")] * 2)
    layer.names.clear()
    session = Session(lambda session: None)
    await topics.restore(session)
    topics.remove_sink("left", subscriber)
    session.catches_up = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(topics.retry_refused, 0)
        await until(lambda: layer.names)
        tasks.cancel_scope.cancel()
    assert layer.names == {"kept"}
    assert layer.count("subscribe") == 5


def _ignore(group: str, seconds: float | None) -> None:
    """Nothing is missed here."""


async def _is(session: Session) -> Session:
    return session
