"""`django.layer`: Channels' own exceptions, and errors that say what to do."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import MessageTooLarge

from django_anyio_channels import AnyioChannelLayer, InMemoryChannelLayer, PayloadTooLarge, PublishResult
from tests.support.programs import failing


class Narrow(InMemoryChannelLayer):
    """A broker with a limit of its own."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        raise PayloadTooLarge("this broker takes 10 bytes")


def test_the_brokers_limit_raises_channels_exception() -> None:
    with pytest.raises(MessageTooLarge, match="this broker takes 10 bytes"):
        AnyioChannelLayer(layer=Narrow).group_send_sync("g", {"type": "x"})


def test_receiving_on_a_channel_of_another_process_is_an_error() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        other = await AnyioChannelLayer().new_channel()
        await layer.new_channel()
        with pytest.raises(ValueError, match=r"Cannot receive on 'specific\..*has ended"):
            await layer.receive(other)

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
