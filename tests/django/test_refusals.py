"""What is refused, and that the refusal says what to do instead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge

from django_anyio_channels import (
    AnyioChannelLayer,
    BaseChannelLayer,
    Channel,
    Event,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
    PayloadTooLarge,
)
from tests.support.programs import failing


class SixVerbs(BaseChannelLayer):
    """The least that a layer can be: it hears nothing."""

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def subscribe(self, groups: str) -> None: ...

    async def unsubscribe(self, groups: str) -> None: ...

    async def publish(self, group: str, message: bytes) -> int | None:
        return None

    async def next_published(self) -> Event[bytes]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody ends this future")


class Narrow(InMemoryChannelLayer):
    """A broker with a limit of its own."""

    def publish_blocking(self, group: str, message: bytes) -> None:
        raise PayloadTooLarge("this broker takes 10 bytes")


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
            assert await channel.publish("g", 1) is None
            with pytest.raises(NotSupported, match="no pattern subscriptions"):
                async with channel.subscribe(pattern="g*"):
                    pass

    asyncio.run(main())


def test_what_the_broker_finds_too_large_is_too_large_for_channels() -> None:
    with pytest.raises(MessageTooLarge, match="this broker takes 10 bytes"):
        AnyioChannelLayer(layer=Narrow).group_send_sync("g", {"type": "x"})


def test_receiving_a_strangers_name_says_who_can() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        stranger = await AnyioChannelLayer().new_channel()
        await layer.new_channel()
        with pytest.raises(ValueError, match=r"Nobody can receive on 'specific\..*has ended"):
            await layer.receive(stranger)

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


@pytest.mark.parametrize(
    ("missing", "name", "sentence"),
    [
        ("channels", "AnyioChannelLayer", "AnyioChannelLayer needs Django and Channels"),
        ("asgiref.sync", "ResumingMixin", "The mixins for consumers need Django and Channels"),
    ],
)
@pytest.mark.usefixtures("measured_programs")
def test_without_channels_one_sentence_names_the_extra(missing: str, name: str, sentence: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from django_anyio_channels import {name}"
    assert failing(program).endswith(f"MissingDriver: {sentence}: pip install django-anyio-channels[django]")
