"""`core.layer`: what a layer of six verbs does, and refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_anyio_channels import (
    BaseChannelLayer,
    Channel,
    Event,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
    PublishResult,
)


class SixVerbs(BaseChannelLayer):
    """The least that a layer can be; it receives nothing."""

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def subscribe(self, groups: str) -> None: ...

    async def unsubscribe(self, groups: str) -> None: ...

    async def publish(self, group: str, message: bytes) -> int | None:
        return None

    async def next_published(self) -> Event[bytes]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("this future never ends")


@pytest.mark.parametrize(
    ("verb", "arguments", "cure"),
    [
        ("subscribe_pattern", {"pattern": "a*"}, "subscribe to each group by its name"),
        ("unsubscribe_pattern", {"pattern": "a*"}, "subscribe to each group by its name"),
        ("put", {"queue": "q", "message": b"", "capacity": 1, "expiry": 1}, "use new_channel"),
        ("take", {"queue": "q"}, "use new_channel"),
        ("bind", {"group": "g", "queue": "q", "capacity": 1, "expiry": 1, "lifetime": 1}, "use new_channel"),
        ("unbind", {"group": "g", "queue": "q"}, "use new_channel"),
        ("purge", {"prefix": "q"}, "use new_channel"),
    ],
)
def test_a_layer_of_six_verbs_refuses_the_others(verb: str, arguments: dict[str, Any], cure: str) -> None:
    layer = SixVerbs()
    assert layer.address == "SixVerbs"
    with pytest.raises(NotSupported, match=f"SixVerbs has no .*{cure}"):
        asyncio.run(getattr(layer, verb)(**arguments))


def test_a_layer_of_six_verbs_carries_groups() -> None:
    async def main() -> None:
        async with Channel(SixVerbs()) as channel, channel.subscribe("g"):
            assert await channel.publish("g", 1) == PublishResult()
            with pytest.raises(NotSupported, match="no pattern subscriptions"):
                async with channel.subscribe(pattern="g*"):
                    pass

    asyncio.run(main())


def test_a_channel_may_be_closed_twice_and_is_closed_then() -> None:
    async def main() -> None:
        channel = Channel(InMemoryChannelLayer())
        async with channel:
            pass
        await channel.__aexit__(None, None, None)
        with pytest.raises(ListenerClosed, match="is not open; use it inside `async with`"):
            await channel.publish("g", 1)

    asyncio.run(main())


def test_a_layer_of_six_verbs_keeps_no_history() -> None:
    layer = SixVerbs()
    for call in (layer.history("g", since=None, limit=None), layer.position("g")):
        with pytest.raises(NotSupported, match=r"SixVerbs keeps no history; .*such as redis\+streams://"):
            asyncio.run(call)
    with pytest.raises(NotSupported, match="SixVerbs keeps no history"):
        layer.published_at("1-1")
    with pytest.raises(NotSupported, match="SixVerbs keeps no history"):
        layer.is_after("1", "2")


def test_the_optional_verbs_have_defaults() -> None:
    layer = SixVerbs()
    assert not layer.returns_bound_queues
    assert not layer.subscriptions_restored()
    assert asyncio.run(layer.count_subscribers("g")) is None
    layer.set_event_handler(lambda event: None)
    layer.set_scope("asgi")
    layer.disable_history("g")
