"""`django.layer`: Channels' own exceptions, and errors that say what to do."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import channel_layers
from django.test import override_settings
from django.utils.functional import lazy

from django_anyio_channels import AnyioChannelLayer, InMemoryChannelLayer, PayloadTooLarge, PublishResult
from django_anyio_channels.django.settings import ConfigError
from tests.support.programs import failing


class Narrow(InMemoryChannelLayer):
    """A broker with a limit of its own."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        raise PayloadTooLarge("this broker takes 10 bytes")


def test_the_brokers_limit_raises_channels_exception() -> None:
    with pytest.raises(MessageTooLarge, match="this broker takes 10 bytes"):
        AnyioChannelLayer(layer=Narrow).group_send_sync("g", {"type": "x"})


def test_a_full_channel_is_named_with_the_cure() -> None:
    layer = AnyioChannelLayer(channel_capacity={"job*": 3}, prefix="a:b")
    for _ in range(3):
        layer.send_sync("jobs", {"type": "x"})
    with pytest.raises(ChannelFull) as caught:
        layer.send_sync("jobs", {"type": "x"})
    assert str(caught.value) == (
        "Channel 'jobs' is full (capacity 3). Run more workers, or raise 'capacity' or 'channel_capacity' in CONFIG"
    )


@pytest.mark.parametrize(
    ("name", "shown"), [("a room", "'a room'"), ("", "''"), (7, "int"), (200 * "x", f"'{100 * 'x'}'")]
)
def test_a_wrong_name_is_shown(name: Any, shown: str) -> None:
    layer = AnyioChannelLayer()
    with pytest.raises(TypeError, match=f"^Group name must be a valid .* or periods, not {shown}$"):
        layer.group_send_sync(name, {"type": "x"})
    with pytest.raises(TypeError, match=f"^Channel name must be a valid .* or periods, not {shown}$"):
        layer.send_sync(name, {"type": "x"})


@pytest.mark.parametrize("path", ["django_anyio_channels.AnyioChannelLayer", None])
def test_settings_beside_config_are_refused_without_system_checks(path: str | None) -> None:
    """Servers run none, and the layer would be in memory."""
    layers = {"default": {"BACKEND": path or "other.Layer", "URL": "redis://h"}}
    with override_settings(CHANNEL_LAYERS=layers):
        if path is None:
            AnyioChannelLayer()
            return
        with pytest.raises(ConfigError) as caught:
            channel_layers["default"]
    assert caught.value.code == "E007"
    assert "CHANNEL_LAYERS['default'] has the key 'URL', which Channels ignores." in caught.value.message
    assert "Did you mean 'url'?" in caught.value.hint


class OwnEncoder(json.JSONEncoder):
    def default(self, o: object) -> Any:
        return sorted(o) if isinstance(o, set) else super().default(o)


def sent_and_received(message: dict[str, Any], **config: Any) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        layer = AnyioChannelLayer(**config)
        await layer.send("normal", message)
        received = await layer.receive("normal")
        await layer.close()
        return received

    return asyncio.run(main())


def test_an_encoder_makes_text_of_what_messagepack_has_no_type_for() -> None:
    message = {
        "type": "order.paid",
        "at": datetime(2026, 11, 29, 12, 30, tzinfo=UTC),
        "order": UUID(int=1),
        "lines": [{"price": Decimal("1.50"), "title": lazy(lambda: "Yes", str)(), "took": timedelta(minutes=1)}],
    }
    received = {
        "type": "order.paid",
        "at": "2026-11-29T12:30:00Z",
        "order": "00000000-0000-0000-0000-000000000001",
        "lines": [{"price": "1.50", "title": "Yes", "took": "P0DT00H01M00S"}],
    }
    assert sent_and_received(message, encoder="django.core.serializers.json.DjangoJSONEncoder") == received
    assert sent_and_received({"type": "x", "ids": {2, 1}}, encoder=OwnEncoder) == {"type": "x", "ids": [1, 2]}


def test_without_an_encoder_the_error_names_the_place_and_the_cure() -> None:
    with pytest.raises(TypeError, match=r"message\['at'\] \(timedelta\).*CONFIG\['encoder'\]"):
        AnyioChannelLayer().group_send_sync("g", {"type": "x", "at": timedelta()})
    with pytest.raises(TypeError, match=r"message\['at'\] \(timedelta\).*not JSON serializable"):
        AnyioChannelLayer(encoder=OwnEncoder).send_sync("normal", {"type": "x", "at": timedelta()})


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({}, "is missing"),
        ({"type": None}, "is missing"),
        ({"type": b"chat"}, "is <class 'bytes'>"),
        ({"type": 5}, "is <class 'int'>"),
        ({"type": ""}, "is ''"),
        ({"type": "_private"}, "is '_private'"),
        ({"type": ".hidden"}, "is '.hidden'"),
    ],
    ids=repr,
)
def test_a_message_that_would_end_its_consumer_is_refused(message: dict[str, Any], found: str) -> None:
    layer = AnyioChannelLayer()
    for send in (layer.send_sync, layer.group_send_sync):
        with pytest.raises(
            ValueError, match="It must be the name of a consumer's method, such as 'chat.message'"
        ) as caught:
            send("name", message)
        assert str(caught.value).startswith(f"message['type'] {found}. ")
    with pytest.raises(TypeError, match="A message must be a dict, not list"):
        layer.send_sync("name", [])  # type: ignore[arg-type]


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
        ("channels.layers", "graceful", "graceful() needs Django and Channels"),
        ("asgiref.sync", "ResumingMixin", "The mixins for consumers need Django and Channels"),
        ("channels.consumer", "UserMixin", "The mixins for consumers need Django and Channels"),
        ("asgiref.sync", "ChannelNameMiddleware", "The middleware needs Django"),
        ("asgiref.sync", "PresenceMixin", "The mixins for consumers need Django and Channels"),
        ("asgiref.sync", "ResumableConsumer", "ResumableConsumer needs Django and Channels"),
        ("django.db.migrations.operations.base", "CreateChannelTables", "Migrations need Django"),
        ("channels.layers", "EventStreamResponse", "EventStreamResponse needs Django and Channels"),
    ],
)
@pytest.mark.usefixtures("measured_programs")
def test_without_channels_one_sentence_names_the_extra(missing: str, name: str, sentence: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from django_anyio_channels import {name}"
    assert failing(program).endswith(f"MissingDriver: {sentence}: pip install django-anyio-channels[django]")
