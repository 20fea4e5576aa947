"""`django.configuration.config`: the keys of CONFIG, and the errors for mistakes."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject
from django.utils.text import format_lazy

import django_anyio_channels
from django_anyio_channels import InMemoryChannelLayer
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.settings import ConfigError
from tests.support.programs import failing

SECRET = "horse-battery-staple"


def test_no_key_is_required() -> None:
    settings = read_config({})
    assert isinstance(settings.make_layers()[0], InMemoryChannelLayer)
    assert (settings.prefix, settings.expiry, settings.group_expiry, settings.capacity) == ("asgi", 60.0, 86400.0, 100)
    assert settings.serializer.encode({"a": 1}) == b"\x81\xa1a\x01"


def test_every_value_becomes_a_setting() -> None:
    values = {
        "prefix": "shop",
        "expiry": 1,
        "group_expiry": 2.5,
        "capacity": 3,
        "publish_timeout": 0.5,
        "max_message_size": 1000,
        "mailbox_bytes": 2000,
        "outage_message": "chat.outage",
    }
    settings = read_config(values)
    assert {key: getattr(settings, key) for key in values} == values


@pytest.mark.parametrize(
    ("config", "message", "hint", "code"),
    [
        ({"ulr": "memory://"}, "unknown key 'ulr'", "Did you mean 'url'?", "E001"),
        ({"URL": "memory://"}, "unknown key 'URL'", "Did you mean 'url'?", "E001"),
        ({"OPTIONS": {}}, "unknown key 'OPTIONS'", "Did you mean 'options'?", "E001"),
        ({"LOCATION": "redis://h"}, "unknown key 'LOCATION'", "Did you mean 'url'?", "E001"),
        (
            {"hosts": [("h", 1)]},
            "unknown key 'hosts'",
            "BACKEND to 'django_anyio_channels.channels_redis.Redis",
            "E001",
        ),
        ({"hosts": [("h", 1)]}, "unknown key 'hosts'", "Name the broker by 'url'", "E001"),
        ({"on_reconnect": "x"}, "unknown key 'on_reconnect'", "'django_anyio_channels.channels_redis.Redis", "E001"),
        ({"host": "h"}, "unknown key 'host'", "keyword arguments belong under 'options'", "E001"),
        ({"history_length": 5}, "unknown key 'history_length'", "arguments belong under 'options'", "E001"),
        (
            {"url": "redis://h", "options": {"history_length": 5}},
            "RedisPubSubChannelLayer has no option 'history_length'. It is an option of redis+streams://",
            "Correct 'url' or 'options'",
            "E003",
        ),
        (
            {"url": "redis+streams://h", "options": {"history_lenght": 5}},
            "RedisStreamsChannelLayer has no option 'history_lenght'. Did you mean 'history_length'?",
            "Correct 'url' or 'options'",
            "E003",
        ),
        ({"zzz": 1}, "unknown key 'zzz'", "a layer's own keyword arguments belong under 'options'", "E001"),
        ({7: 1, "zzz": 1}, "unknown key 'zzz'", "The keys are acknowledged, bridge", "E001"),
        ({7: 1}, "unknown key 7", "The keys are acknowledged, bridge", "E001"),
        (
            {"overflow": "close"},
            "CONFIG['overflow'] has an invalid value (str)",
            "a dict from channel name, glob",
            "E005",
        ),
        ({"overflow": {"x": "closed"}}, "CONFIG['overflow']: overflow is 'closed'.", "Did you mean 'close'?", "E005"),
        ({"prefix": ""}, "CONFIG['prefix'] has an invalid value (str)", "printable ASCII", "E005"),
        ({"prefix": "a b"}, "CONFIG['prefix'] has an invalid value (str)", "without spaces", "E005"),
        ({"prefix": 1}, "CONFIG['prefix'] has an invalid value (int)", "a non-empty str", "E005"),
        ({"expiry": 1e12}, "CONFIG['expiry'] has an invalid value (float)", "up to 1,000,000,000", "E005"),
        (
            {"group_expiry": float("inf")},
            "CONFIG['group_expiry'] has an invalid value (float)",
            "up to 1,000,000,000",
            "E005",
        ),
        ({"capacity": 2**31}, "CONFIG['capacity'] has an invalid value (int)", "from 1 to 2,147,483,647", "E005"),
        (
            {"channel_capacity": {"x": 2**31}},
            "CONFIG['channel_capacity'] has an invalid value (dict)",
            "from 1 to 2,147,483,647",
            "E005",
        ),
        ({"expiry": 0}, "CONFIG['expiry'] has an invalid value (int)", "a number of seconds above 0", "E005"),
        ({"expiry": True}, "CONFIG['expiry'] has an invalid value (bool)", "a number of seconds above 0", "E005"),
        (
            {"group_expiry": "1"},
            "CONFIG['group_expiry'] has an invalid value (str)",
            "a number of seconds above 0",
            "E005",
        ),
        (
            {"publish_timeout": float("nan")},
            "CONFIG['publish_timeout'] has an invalid value (float)",
            "above 0",
            "E005",
        ),
        ({"capacity": 0}, "CONFIG['capacity'] has an invalid value (int)", "a whole number of messages from 1", "E005"),
        ({"capacity": 1.5}, "CONFIG['capacity'] has an invalid value (float)", "a whole number", "E005"),
        (
            {"max_message_size": False},
            "CONFIG['max_message_size'] has an invalid value (bool)",
            "whole number of bytes",
            "E005",
        ),
        (
            {"channel_capacity": 5},
            "CONFIG['channel_capacity'] has an invalid value (int)",
            "a dict from channel name",
            "E005",
        ),
        (
            {"channel_capacity": {"a": 0}},
            "CONFIG['channel_capacity'] has an invalid value (dict)",
            "a capacity from 1 to",
            "E005",
        ),
        (
            {"channel_capacity": {1: 1}},
            "CONFIG['channel_capacity'] has an invalid value (dict)",
            "a dict from channel name",
            "E005",
        ),
        (
            {"channel_capacity": {re.compile(b"a"): 1}},
            "CONFIG['channel_capacity'] has an invalid value (dict)",
            "a dict from channel name",
            "E005",
        ),
        (
            {"acknowledged": "jobs"},
            "CONFIG['acknowledged'] has an invalid value (str)",
            "a list of channel names",
            "E005",
        ),
        (
            {"acknowledged": [7]},
            "CONFIG['acknowledged'] has an invalid value (list)",
            "such as ['thumbnails', 'mail.*']",
            "E005",
        ),
        ({"mailbox_bytes": 0}, "CONFIG['mailbox_bytes'] has an invalid value (int)", "whole number of bytes", "E005"),
        (
            {"acknowledged": ["jobs"], "url": "mqtt://x"},
            "MQTTChannelLayer does not support acknowledgement",
            "delivered once at most",
            "E002",
        ),
        (
            {"acknowledged": ["jobs"], "url": "redis://x"},
            "a layer that does: redis+streams://",
            "Name such",
            "E002",
        ),
        ({"outage_message": 1}, "CONFIG['outage_message'] has an invalid value (int)", "such as 'chat.outage'", "E005"),
        (
            {"outage_message": ""},
            "CONFIG['outage_message'] has an invalid value (str)",
            "such as 'chat.outage'",
            "E005",
        ),
        (
            {"outage_message": ".x"},
            "CONFIG['outage_message'] has an invalid value (str)",
            "such as 'chat.outage'",
            "E005",
        ),
        (
            {"outage_message": "_x"},
            "CONFIG['outage_message'] has an invalid value (str)",
            "such as 'chat.outage'",
            "E005",
        ),
        (
            {"encoder": "no.such.Encoder"},
            "CONFIG['encoder'] cannot be imported",
            "subclass of json.JSONEncoder",
            "E005",
        ),
        ({"encoder": ".x"}, "CONFIG['encoder'] cannot be imported", "subclass of json.JSONEncoder", "E005"),
        ({"encoder": "json.dumps"}, "CONFIG['encoder'] has an invalid value (function)", "DjangoJSONEncoder", "E005"),
        ({"encoder": str}, "CONFIG['encoder'] has an invalid value (type)", "subclass of json.JSONEncoder", "E005"),
        ({"symmetric_encryption_keys": "key"}, "not a single key", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": b""}, "not a single key", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": 7}, "must be a non-empty list", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": False}, "must be a non-empty list", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": {}}, "must be a non-empty list", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": {"a", "b"}}, "must be a non-empty list", "the first key encrypts", "E005"),
        ({"symmetric_encryption_keys": (key for key in "ab")}, "must be a non-empty list", "Give a list", "E005"),
        ({"symmetric_encryption_keys": [7]}, "must be a non-empty str or bytes", "the first key encrypts", "E005"),
    ],
    ids=lambda value: None,
)
def test_a_mistake_is_named_with_its_cure(config: dict[str, Any], message: str, hint: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.code == code
    assert str(caught.value) == f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("url", ["redis://h", "redis+streams://h", "redis+cluster://h", "postgresql://h", "mqtt://h"])
@pytest.mark.parametrize("value", [0, "100", math.nan, True, -1, math.inf])
def test_a_probe_interval_that_would_stop_the_timers_is_refused(url: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({"url": url, "options": {"probe_interval": value}})
    assert caught.value.message.endswith(f"probe_interval has an invalid value ({type(value).__name__}).")
    assert caught.value.hint == "It must be a number of seconds above 0 up to 1,000,000,000."


@pytest.mark.parametrize(
    "config",
    [
        {"prefix": f"{SECRET} "},
        {"url": 5 * [SECRET]},
        {"url": f"redis:/:{SECRET}@h"},
        {"url": f"redis://h/{SECRET}"},
        {"url": {SECRET: SECRET}},
        {"layer": f"redis://:{SECRET}@h"},
        {"options": SECRET},
        {"options": {"broker": SECRET}},
        {"url": "redis://h", "options": {"port": SECRET}},
        {"url": "redis://h", "options": {"password": [SECRET]}},
        {"url": "postgresql://h", "options": {"server_settings": SECRET}},
        {"url": f"postgresql://u:{SECRET}@h?zzz={SECRET}"},
        {"url": "mqtt://h", "options": {"password": SECRET.encode()}},
        {"url": f"mqtt://u:{SECRET}@h?qos={SECRET}"},
        {"symmetric_encryption_keys": SECRET},
        {"symmetric_encryption_keys": [[SECRET]]},
        {"outage_message": [SECRET]},
        {"channel_capacity": {"*": SECRET}},
        {"acknowledged": SECRET},
    ],
    ids=str,
)
def test_no_error_shows_a_value(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    assert SECRET not in str(caught.value)


def test_no_sentence_ends_twice() -> None:
    wrong: list[dict[str, Any]] = [
        {"ulr": 1},
        {"url": "redis://h", "options": {"pasword": 1}},
        {"symmetric_encryption_keys": "x"},
        {"acknowledged": ["jobs"], "url": "mqtt://h"},
        {"url": "mqtt://h", "bridge": 7},
        {"layer": "no.such.Layer"},
    ]
    for config in wrong:
        with pytest.raises(ConfigError) as caught:
            read_config(config)
        assert not re.search(r"[.?][.?]", str(caught.value))
        assert caught.value.message[-1] in ".?"
        assert caught.value.hint[-1] in ".?"


def test_lazy_strings_are_read() -> None:
    url = format_lazy("redis://h/3")
    config = {"url": SimpleLazyObject(lambda: "redis://h/2"), "prefix": format_lazy("shop"), "outage_message": None}
    settings = read_config(config)
    assert [layer.address for layer in settings.make_layers()] == ["redis://h:6379/2"]
    assert settings.prefix == "shop"
    [layer] = read_config({"url": [url], "options": {"client_name": format_lazy("me")}}).make_layers()
    assert layer.address == "redis://h:6379/3"


@pytest.mark.parametrize("keys", [None, [], ()])
def test_no_keys_are_no_encryption(keys: object) -> None:
    assert read_config({"symmetric_encryption_keys": keys}).encryption is None


def test_keys_encrypt() -> None:
    encryption = read_config({"symmetric_encryption_keys": ["a long enough key"]}).encryption
    assert encryption is not None
    token = encryption.encrypt(b"x", "group", "lobby", lifetime=60.0)
    assert encryption.decrypt(token, "group", "lobby") == b"x"


@pytest.mark.usefixtures("measured_programs")
def test_without_cryptography_one_sentence_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['cryptography.fernet'] = None; from django_anyio_channels import AnyioChannelLayer; "
        "AnyioChannelLayer(symmetric_encryption_keys=['x'])"
    )
    assert "pip install django-anyio-channels[encryption]" in failing(program)


def test_the_package_has_only_the_names_that_it_lists() -> None:
    assert dir(django_anyio_channels) == sorted(django_anyio_channels.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Chanel'"):
        _ = django_anyio_channels.Chanel


def test_type_checkers_see_the_names_that_it_lists() -> None:
    tree = ast.parse(Path(django_anyio_channels.__file__).read_text())
    [for_types] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in for_types.body if isinstance(node, ast.ImportFrom)]
    assert {node.names[0].asname: node.module for node in imports} == django_anyio_channels._MODULES
