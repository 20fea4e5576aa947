"""`django.config`: the keys of CONFIG, and the errors for mistakes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import django_anyio_channels
from django_anyio_channels import InMemoryChannelLayer
from django_anyio_channels.django.config import read_config
from django_anyio_channels.django.settings import ConfigError
from tests.support.programs import failing


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
        "outage_message": "chat.outage",
    }
    settings = read_config(values)
    assert {key: getattr(settings, key) for key in values} == values


@pytest.mark.parametrize(
    ("config", "message", "hint", "code"),
    [
        ({"ulr": "memory://"}, "unknown key 'ulr'", "Did you mean 'url'?", "E001"),
        ({"zzz": 1}, "unknown key 'zzz'", "a layer's own keyword arguments belong under 'options'", "E001"),
        ({7: 1, "zzz": 1}, "unknown key 'zzz'", "The keys are acknowledged, bridge", "E001"),
        ({7: 1}, "unknown key 7", "The keys are acknowledged, bridge", "E001"),
        ({"prefix": ""}, "CONFIG['prefix'] is ''", "printable ASCII", "E005"),
        ({"prefix": "a b"}, "CONFIG['prefix'] is 'a b'", "without spaces", "E005"),
        ({"prefix": 1}, "CONFIG['prefix'] is 1", "a non-empty str", "E005"),
        ({"expiry": 1e12}, "CONFIG['expiry'] is 1000000000000.0", "up to 1000000000, which is thirty years", "E005"),
        ({"group_expiry": float("inf")}, "CONFIG['group_expiry'] is inf", "up to 1000000000", "E005"),
        ({"capacity": 2**31}, "CONFIG['capacity'] is 2147483648", "1 or more and up to 2147483647", "E005"),
        ({"channel_capacity": {"x": 2**31}}, "CONFIG['channel_capacity'] is", "from 1 to 2147483647", "E005"),
        ({"expiry": 0}, "CONFIG['expiry'] is 0", "a number of seconds above 0", "E005"),
        ({"expiry": True}, "CONFIG['expiry'] is True", "a number of seconds above 0", "E005"),
        ({"group_expiry": "1"}, "CONFIG['group_expiry'] is '1'", "a number of seconds above 0", "E005"),
        ({"publish_timeout": float("nan")}, "CONFIG['publish_timeout'] is nan", "above 0", "E005"),
        ({"capacity": 0}, "CONFIG['capacity'] is 0", "a whole number of messages, 1 or more", "E005"),
        ({"capacity": 1.5}, "CONFIG['capacity'] is 1.5", "a whole number", "E005"),
        ({"max_message_size": False}, "CONFIG['max_message_size'] is False", "whole number of bytes", "E005"),
        ({"channel_capacity": 5}, "CONFIG['channel_capacity'] is 5", "a dict from channel name", "E005"),
        ({"channel_capacity": {"a": 0}}, "CONFIG['channel_capacity'] is {'a': 0}", "a capacity from 1 to", "E005"),
        ({"channel_capacity": {1: 1}}, "CONFIG['channel_capacity'] is {1: 1}", "a dict from channel name", "E005"),
        ({"channel_capacity": {re.compile(b"a"): 1}}, "re.compile(b'a')", "a dict from channel name", "E005"),
        ({"acknowledged": "jobs"}, "CONFIG['acknowledged'] is 'jobs'", "a list of channel names", "E005"),
        ({"acknowledged": [7]}, "CONFIG['acknowledged'] is [7]", "such as ['thumbnails', 'mail.*']", "E005"),
        (
            {"acknowledged": ["jobs"]},
            "InMemoryChannelLayer delivers each message once",
            "delivered once at most",
            "E002",
        ),
        (
            {"acknowledged": ["jobs"], "url": "redis://x"},
            "a layer that redelivers: redis+streams://",
            "Name such",
            "E002",
        ),
        ({"outage_message": 1}, "CONFIG['outage_message'] is 1", "such as 'chat.outage'", "E005"),
        ({"outage_message": ""}, "CONFIG['outage_message'] is ''", "such as 'chat.outage'", "E005"),
        ({"outage_message": ".x"}, "CONFIG['outage_message'] is '.x'", "such as 'chat.outage'", "E005"),
        ({"outage_message": "_x"}, "CONFIG['outage_message'] is '_x'", "such as 'chat.outage'", "E005"),
        (
            {"encoder": "no.such.Encoder"},
            "CONFIG['encoder'] cannot be imported",
            "subclass of json.JSONEncoder",
            "E005",
        ),
        ({"encoder": ".x"}, "CONFIG['encoder'] cannot be imported", "subclass of json.JSONEncoder", "E005"),
        ({"encoder": "json.dumps"}, "CONFIG['encoder'] is 'json.dumps'", "DjangoJSONEncoder", "E005"),
        ({"encoder": str}, "CONFIG['encoder'] is", "subclass of json.JSONEncoder", "E005"),
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
