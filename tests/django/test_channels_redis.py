"""`channels_redis`: each form of its CONFIG, and the settings that it becomes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.test import override_settings
from django.utils.text import format_lazy

from django_anyio_channels import InMemoryBroker, InMemoryChannelLayer, RedisPubSubChannelLayer
from django_anyio_channels.channels_redis import DEFAULT_HOST, KEYS, RedisChannelLayer
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.django.configuration.checks import check_channel_layers
from django_anyio_channels.django.settings import ConfigError, LayerFactory, Settings
from tests.support.programs import failing

BACKEND = "django_anyio_channels.channels_redis.RedisChannelLayer"


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        (None, f"{DEFAULT_HOST}/0"),
        ([], f"{DEFAULT_HOST}/0"),
        ([("localhost", 6380)], "redis://localhost:6380/0"),
        ([["localhost", "6380"]], "redis://localhost:6380/0"),
        (["redis://:password@127.0.0.1:6379/1"], "redis://127.0.0.1:6379/1"),
        (["rediss://user@host:7000"], "rediss://host:7000/0"),
        (["unix:///path/to/redis.sock"], "unix:///path/to/redis.sock?db=0"),
        ([{"address": "rediss://user@host:7000", "ssl_cert_reqs": None}], "rediss://host:7000/0"),
        ([format_lazy("redis://{}", "host")], "redis://host:6379/0"),
        ([{"address": ("host", 7000)}], "redis://host:7000/0"),
        ([{"address": ["host", 7000], "db": 1}], "redis://host:7000/1"),
        ([{"address": "redis://host", "db": 2, "max_connections": 50}], "redis://host:6379/2"),
        ([{"host": "host", "port": 7000, "password": "secret", "socket_timeout": 5}], "redis://host:7000/0"),
        ([{"host": "host", "ssl": True, "ssl_check_hostname": False}], "rediss://host:6379/0"),
        (
            [{"sentinels": [("localhost", 26379), ("::1", 26380)], "master_name": "my/master"}],
            "redis+sentinel://localhost:26379,::1:26380/my/master/0",
        ),
        (
            [
                {
                    "sentinels": [("s", 26379)],
                    "master_name": "m",
                    "sentinel_kwargs": {"password": "x"},
                    "password": "y",
                    "db": 3,
                }
            ],
            "redis+sentinel://s:26379/m/3",
        ),
        (
            [("a", 1), "redis://b:2", {"sentinels": [("s", 3)], "master_name": "m"}],
            "redis://a:1/0, redis://b:2/0, redis+sentinel://s:3/m/0",
        ),
    ],
    ids=lambda value: None,
)
def test_hosts_in_every_form(hosts: Any, address: str) -> None:
    made = RedisChannelLayer.read_config({"hosts": hosts}).make_layers()
    assert {type(layer) for layer in made} == {RedisPubSubChannelLayer}
    assert ", ".join(layer.address for layer in made) == address


@pytest.mark.parametrize(
    ("hosts", "message", "hint"),
    [
        ("redis://localhost", "CONFIG['hosts'] has an invalid value (str).", "It must be a list."),
        (("localhost", 6379), "CONFIG['hosts'][0] cannot be used", "Each host is a URL, (host, port)"),
        ([("localhost",)], "CONFIG['hosts'][0] cannot be used: it has no port.", "Each host is a URL"),
        (["redis://a", 7], "CONFIG['hosts'][1] cannot be used: int is not a host", "Each host is a URL"),
        ([{"address": None}], "CONFIG['hosts'][0] cannot be used: 'address' is NoneType", "Each host is a URL"),
        ([("h", "secret")], "cannot be used: port has an invalid value (str)", "Each host is a URL"),
        ([{"sentinels": []}], "CONFIG['hosts'][0] cannot be used: it lacks 'master_name'", "'sentinels' and"),
        ([{"master_name": "m"}], "CONFIG['hosts'][0] cannot be used: it lacks 'sentinels'", "'sentinels' and"),
        ([{"host": "a", "pasword": "x"}], "has no option 'pasword'. Did you mean 'password'?", "Each host"),
    ],
    ids=lambda value: None,
)
def test_hosts_that_cannot_be_used(hosts: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisChannelLayer.read_config({"hosts": hosts})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


def test_more_than_host_and_port_warns() -> None:
    """``channels_redis`` ignores the rest, which looks like the number of a database."""
    settings = RedisChannelLayer.read_config({"hosts": [("h", 1), ("localhost", 6380, 2)]})
    assert [layer.address for layer in settings.make_layers()] == ["redis://h:1/0", "redis://localhost:6380/0"]
    [warning] = settings.warnings
    assert warning.message == "CONFIG['hosts'][1] has 3 items, of which only host and port count."
    assert "Each host is a URL" in warning.hint


async def closed_twice(layer: RedisChannelLayer) -> None:
    await layer.close_pools()
    await layer.close_pools()


def test_pools_can_be_closed() -> None:
    asyncio.run(closed_twice(RedisChannelLayer()))


def test_every_key_that_core_documents() -> None:
    """As its README has them."""
    config = {
        "hosts": ["redis://:password@127.0.0.1:6379/0"],
        "prefix": "shop",
        "expiry": 30,
        "group_expiry": 3600,
        "capacity": 1500,
        "channel_capacity": {
            "http.request": 200,
            "http.response!*": 10,
            re.compile(r"^websocket.send\!.+"): 20,
        },
        "symmetric_encryption_keys": ["a secret key of Django's length, more or less"],
        "serializer_format": "msgpack",
    }
    layer = RedisChannelLayer(**config)
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (30, 3600, 1500)
    settings = layer.read_config(config)
    names = ["http.request", "http.response!abc", "websocket.send!abc", "other"]
    assert [settings.capacity_of(name) for name in names] == [200, 10, 20, 1500]
    assert settings.prefix == "shop"
    assert settings.encryption is not None
    assert settings.warnings == ()


def test_nothing_and_none_are_the_defaults() -> None:
    config = {"channel_capacity": None, "symmetric_encryption_keys": None, "on_disconnect": None, "on_reconnect": None}
    settings = RedisChannelLayer.read_config(config)
    assert (settings.prefix, settings.expiry, settings.channel_capacity, settings.warnings) == ("asgi", 60, (), ())
    assert settings.outage_message is None


def test_on_reconnect_becomes_the_outage_message() -> None:
    read = RedisChannelLayer.read_config
    assert read({"on_reconnect": "redis.reconnect"}).outage_message == "redis.reconnect"
    assert read({"on_reconnect": "redis.reconnect", "outage_message": "mine"}).outage_message == "mine"


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({"random_prefix_length": 12}, r"CONFIG\['random_prefix_length'\] has no effect\. Leave it out"),
        ({"serializer_format": "json"}, r"CONFIG\['serializer_format'\] has no effect\. Leave it out.*MessagePack"),
        ({"on_disconnect": "redis.disconnect"}, r"CONFIG\['on_disconnect'\] has no effect\. Use 'outage_message'"),
    ],
)
def test_what_has_no_meaning_warns_and_names_the_replacement(config: dict[str, Any], warning: str) -> None:
    with pytest.warns(UserWarning, match=warning) as caught:
        RedisChannelLayer(**config)
    assert [each.filename for each in caught] == [__file__]
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": BACKEND, "CONFIG": config}}):
        [found] = check_channel_layers()
    assert found.id == "anyio_channels.W006"
    assert re.search(warning, f"{found.msg} {found.hint}")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("host", "Did you mean 'hosts'?"),
        ("url", "The keys are capacity, channel_capacity, encoder, expiry, fast_dispatch, group_expiry, hosts"),
    ],
)
def test_unknown_keys_are_refused(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisChannelLayer(**{key: "redis://localhost"})
    assert hint in caught.value.hint
    assert key not in KEYS


def test_two_aliases_on_one_host_need_two_prefixes() -> None:
    entry = {"BACKEND": BACKEND, "CONFIG": {"hosts": [("localhost", 6379)]}}
    with override_settings(CHANNEL_LAYERS={"default": entry, "other": entry}):
        [found] = check_channel_layers()
    assert found.id == "anyio_channels.W004"


@pytest.mark.usefixtures("measured_programs")
def test_without_the_driver_one_sentence_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['hiredis'] = None; "
        "from django_anyio_channels.channels_redis import RedisChannelLayer; RedisChannelLayer()"
    )
    assert "pip install django-anyio-channels[redis]" in failing(program)


# ---- hooks of projects ---------------------------------------------------------------------------------------------


class OnMemory(RedisChannelLayer):
    """What a project has made of the layer, on a broker in memory."""

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> Settings:
        arguments = {"broker": InMemoryBroker()}
        make_layer = LayerFactory(InMemoryChannelLayer, lambda: arguments)
        return replace(super().read_config(config), layer_factories=(make_layer,))


class WithDates(OnMemory):
    def serialize(self, message: Any) -> bytes:
        return b"1" + super().serialize({**message, "at": message["at"].isoformat()})

    def deserialize(self, message: bytes) -> Any:
        decoded = super().deserialize(message[1:])
        return {**decoded, "at": date.fromisoformat(decoded["at"])}


@pytest.mark.parametrize("keys", [[], ["a key of some length"]], ids=["plain", "encrypted"])
def test_serialize_and_deserialize_of_a_subclass_take_effect(keys: list[str], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer = WithDates(symmetric_encryption_keys=keys)
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        message = {"type": "x", "at": date(2026, 11, 29)}
        for send in (layer.send(channel, message), layer.group_send("g", message), layer.send("normal", message)):
            await send
        assert [await layer.receive(name) for name in (channel, channel, "normal")] == [message] * 3
        await layer.flush()
        node = next(iter(layer._dispatcher.nodes))
        for payload in (b"1\x81\xa1a\x01", b"1\xc1"):
            await node.put("normal", payload)
        await layer.send("normal", message)
        assert await layer.receive("normal") == message
        await layer.close()

    asyncio.run(main())
    assert "WithDates.deserialize raised KeyError('at')" in caplog.text
    assert "it is not a MessagePack message" in caplog.text


def test_serialize_returns_bytes() -> None:
    class Wrong(OnMemory):
        def serialize(self, message: Any) -> bytes:
            return "text"  # type: ignore[return-value]

    with pytest.raises(TypeError, match="Wrong.serialize returned str, not bytes"):
        Wrong().group_send_sync("g", {"type": "x"})


def test_without_hooks_there_is_no_detour() -> None:
    layer = OnMemory(encoder=DjangoJSONEncoder)
    assert isinstance(layer._settings.serializer, MessagePackSerializer)
    assert layer.deserialize(layer.serialize({"at": date(2026, 11, 29)})) == {"at": "2026-11-29"}


def test_a_registered_serializer_is_refused() -> None:
    with pytest.raises(ConfigError, match="is 'mine', which is not a serializer") as caught:
        RedisChannelLayer(serializer_format="mine")
    assert "override serialize" in caught.value.hint
