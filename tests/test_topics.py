"""The table of subscriptions, where no open Channel can bring the moment about for sure."""

from __future__ import annotations

import pytest

from django_anyio_channels.link import Life
from django_anyio_channels.losses import Losses
from django_anyio_channels.serializers import MessagePackSerializer
from django_anyio_channels.subscriber import Subscriber
from django_anyio_channels.topics import Topics
from django_anyio_channels.waiting import waiter_factory

from .scripted import ScriptedLayer

pytestmark = pytest.mark.anyio


async def test_what_was_left_since_the_link_broke_is_not_subscribed_to_again() -> None:
    layer = ScriptedLayer()
    lives = [Life(lambda life: None) for _ in range(2)]
    topics = Topics(layer, lambda: _is(lives[0]), waiter_factory(), lambda group: None)
    subscriber = Subscriber(
        "room",
        capacity=10,
        expiry=None,
        decode=MessagePackSerializer().decode,
        new_waiter=waiter_factory(),
        losses=Losses(),
    )
    await layer.connect()
    await topics.restore(lives[0])
    for name in ("left", "kept"):
        await topics.attach(name, subscriber)
    await layer.disconnect()
    topics.detach("left", subscriber)
    await layer.connect()
    await topics.restore(lives[1])
    assert layer.names == {"kept"}


async def _is(life: Life) -> Life:
    return life
