"""`ping` and `ping_sync`: a round trip through every broker, or an error that says what is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer, ListenerClosed, PublishResult
from django_anyio_channels.core.events import Event
from django_anyio_channels.core.exceptions import SubscriptionRefused
from django_anyio_channels.django.process.background_loop import background

from ..helpers import layers, node_in, soon, take_down


def test_a_round_trip_takes_some_time() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        assert 0 < await layer.ping() < 5
        assert 0 < await layer.ping(timeout=5) < 5
        with pytest.raises(SynchronousOnlyOperation):
            layer.ping_sync()
        # One at a time or many at once.
        assert all(await asyncio.gather(*(layer.ping() for _ in range(10))))
        assert node_in(layer).echo._pending == {}

    asyncio.run(main())


def test_for_synchronous_code() -> None:
    (layer,) = layers(1)
    assert 0 < layer.ping_sync() < 5
    background.stop()
    background.reset()


def test_every_broker_of_a_list_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Any] = []
    publish = InMemoryChannelLayer.publish

    async def note(self: InMemoryChannelLayer, group: str, message: bytes) -> PublishResult:
        published.append(self)
        return await publish(self, group, message)

    monkeypatch.setattr(InMemoryChannelLayer, "publish", note)

    async def main() -> None:
        layer = AnyioChannelLayer(url=["memory://"] * 3)
        assert await layer.ping() > 0
        assert len(set(map(id, published))) == 3
        assert layer.brokers == ["memory://"] * 3

    asyncio.run(main())


@pytest.mark.parametrize("keys", [[], ["a key of some length"]], ids=["plain", "encrypted"])
def test_what_others_publish_there_changes_nothing(keys: list[str]) -> None:
    async def main() -> None:
        (layer,) = layers(1, symmetric_encryption_keys=keys)
        await layer.ping()
        node = node_in(layer)
        [topic] = node.echo._topics
        await node.channel.layer.publish(topic, b"forged")
        await node.channel.publish_payload(topic, b"forged")
        node.echo.put((0.0, Event(topic, b"\xff")))
        assert await layer.ping() > 0

    asyncio.run(main())


def test_a_message_that_comes_twice() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.ping()
        echo = node_in(layer).echo
        put = echo.put
        monkey: Any = lambda entry: (put(entry), put(entry))  # noqa: E731
        echo.put = monkey  # type: ignore[method-assign]
        assert await layer.ping() > 0
        echo.close()

    asyncio.run(main())


def test_a_message_that_does_not_come_back() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.ping()
        node_in(layer).echo.put = lambda entry: None  # type: ignore[method-assign]
        with pytest.raises(ListenerClosed, match=r"memory:// did not return a message within 0.05 s. Check that"):
            await node_in(layer).echo.ping(0.05)
        with pytest.raises(ListenerClosed, match="memory:// could not be reached within 0.05 s"):
            await layer.ping(timeout=0.05)

    asyncio.run(main())


def test_a_broker_that_is_gone_and_one_that_comes_back() -> None:
    async def main() -> None:
        (layer,) = layers(1, publish_timeout=0.2)
        await layer.ping()
        connection = await take_down(layer)
        with pytest.raises(ListenerClosed, match=r"did not return a message within 0.2 s|No connection to memory://"):
            await layer.ping()
        connection.is_down = False
        while True:
            try:
                assert await soon(layer.ping()) > 0
                break
            except ListenerClosed:
                pass

    asyncio.run(main())


def test_a_subscription_that_is_refused_is_an_error_of_its_own() -> None:
    class Refusing(InMemoryChannelLayer):
        async def subscribe(self, groups: str) -> None:
            if ":e:" in groups:
                raise SubscriptionRefused("that topic is not for you")
            await super().subscribe(groups)

    async def main() -> None:
        layer = AnyioChannelLayer(layer=Refusing, options={"broker": InMemoryBroker()})
        with pytest.raises(SubscriptionRefused, match="not for you"):
            await layer.ping()

    asyncio.run(main())
