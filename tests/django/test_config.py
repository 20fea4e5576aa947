"""CONFIG, key by key: what is read, and how a mistake is answered."""

from __future__ import annotations

import re
from typing import Any

import pytest

import django_anyio_channels
from django_anyio_channels import InMemoryBroker, InMemoryChannelLayer
from django_anyio_channels.core.exceptions import MissingDriver
from django_anyio_channels.django.config import ConfigError, read_config
from tests.support.programs import failing

from .test_refusals import SixVerbs

INTEGERS = re.compile(r"number\.[0-9]+")


class Own(InMemoryChannelLayer):
    """A project's own layer."""


def test_nothing_is_needed() -> None:
    settings = read_config({})
    assert isinstance(settings.make_layers()[0], InMemoryChannelLayer)
    assert (settings.prefix, settings.expiry, settings.group_expiry, settings.capacity) == ("asgi", 60.0, 86400.0, 100)
    assert settings.encode({"a": 1}) == b"\x81\xa1a\x01"


def test_every_value_is_taken_over() -> None:
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


def test_the_first_capacity_that_matches_counts() -> None:
    settings = read_config({"channel_capacity": {"http.*": 5, INTEGERS: 7, "http.special": 9}, "capacity": 3})
    names = ["http.request", "http.special", "number.12", "other", "my.http.request"]
    assert [settings.capacity_of(name) for name in names] == [5, 5, 7, 3, 3]


def test_channels_that_are_acknowledged() -> None:
    settings = read_config({"url": "redis+streams://x", "acknowledged": ["jobs", "mail.*", INTEGERS]})
    names = ["jobs", "jobs.not", "mail.welcome", "number.12", "number.x"]
    assert [settings.is_acknowledged(name) for name in names] == [True, False, True, True, False]
    assert not read_config({"acknowledged": []}).is_acknowledged("jobs")


@pytest.mark.parametrize(
    ("config", "message", "hint", "code"),
    [
        ({"ulr": "memory://"}, "unknown key 'ulr'", "Did you mean 'url'?", "E001"),
        ({"zzz": 1}, "unknown key 'zzz'", "a layer's own keyword arguments belong under 'options'", "E001"),
        ({7: 1, "zzz": 1}, "unknown key 'zzz'", "The keys are acknowledged, bridge", "E001"),
        ({7: 1}, "unknown key 7", "The keys are acknowledged, bridge", "E001"),
        ({"url": "memory://", "layer": Own}, "both 'url' and 'layer'", "Keep 'url' for a broker", "E002"),
        ({"url": "memory://", "options": {"url": "memory://"}}, "'url' twice", "Keep the one beside", "E002"),
        ({"url": "memry://"}, "unknown scheme 'memry'", "Did you mean memory://?", "E003"),
        ({"url": "no url at all"}, "unknown scheme ''", "The schemes are memory://", "E003"),
        ({"url": "mqtt://user:[word@host"}, "cannot be made from CONFIG: Invalid IPv6 URL", "Percent-encode", "E003"),
        ({"url": 7}, "CONFIG['url'] is 7", "such as 'memory://'", "E005"),
        ({"url": "memory://shop"}, "'memory://shop' is not a URL of the in-memory layer", "Correct 'url'", "E003"),
        ({"options": {"speed": 1}}, "unexpected keyword argument 'speed'", "or 'options'", "E003"),
        ({"options": [1]}, "CONFIG['options'] is [1]", "a dict of the layer's keyword arguments", "E005"),
        ({"layer": "no.such.Layer"}, "cannot be imported: No module named 'no'", "dotted path of a subclass", "E003"),
        ({"url": []}, "CONFIG['url'] is an empty list", "Name at least one broker", "E003"),
        ({"url": ["memory://", 7]}, "CONFIG['url'] is 7", "or a list of such", "E005"),
        ({"url": ["memory://", "redis://x"]}, "of different kinds: memory, redis", "several of one kind", "E003"),
        ({"url": 3 * ["redis://:secret@x"]}, "lists the broker at place 1 twice", "Name each broker once", "E003"),
        ({"layer": ".layers.Own"}, "cannot be imported: the 'package'", "dotted path of a subclass", "E003"),
        ({"layer": ".Own"}, "cannot be imported: Empty module name", "dotted path of a subclass", "E003"),
        ({"layer": "django_anyio_channels.Event"}, "which is no layer", "dotted path of a subclass", "E003"),
        ({"layer": 7}, "CONFIG['layer'] is 7, which is no layer", "or the class itself", "E003"),
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
        ({"acknowledged": ["jobs"]}, "InMemoryChannelLayer hands nothing out again", "at most once", "E002"),
        ({"acknowledged": ["jobs"], "url": "redis://x"}, "a layer that does: redis+streams://", "Name such", "E002"),
        ({"outage_message": 1}, "CONFIG['outage_message'] is 1", "such as 'chat.outage'", "E005"),
        ({"outage_message": ""}, "CONFIG['outage_message'] is ''", "such as 'chat.outage'", "E005"),
        ({"outage_message": ".x"}, "CONFIG['outage_message'] is '.x'", "such as 'chat.outage'", "E005"),
        ({"outage_message": "_x"}, "CONFIG['outage_message'] is '_x'", "such as 'chat.outage'", "E005"),
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


@pytest.mark.parametrize("layer", [Own, f"{__name__}.Own"])
def test_a_layer_of_ones_own(layer: object) -> None:
    broker = InMemoryBroker()
    made = read_config({"layer": layer, "options": {"broker": broker}}).make_layers()[0]
    assert isinstance(made, Own)
    assert made.broker is broker


def test_a_layer_of_ones_own_need_not_be_in_memory() -> None:
    assert isinstance(read_config({"layer": SixVerbs}).make_layers()[0], SixVerbs)


def test_layers_of_one_config_share_the_broker_and_layers_of_two_do_not() -> None:
    one, other = read_config({}), read_config({})

    def broker_of(layer: object) -> InMemoryBroker:
        assert isinstance(layer, InMemoryChannelLayer)
        return layer.broker

    assert broker_of(one.make_layers()[0]) is broker_of(one.make_layers()[0])
    assert broker_of(one.make_layers()[0]) is not broker_of(other.make_layers()[0])


@pytest.mark.parametrize("keys", [None, [], ()])
def test_no_keys_are_no_encryption(keys: object) -> None:
    assert read_config({"symmetric_encryption_keys": keys}).encode({}) == b"\x80"


def test_keys_encrypt() -> None:
    settings = read_config({"symmetric_encryption_keys": ["a long enough key"]})
    frame = settings.encode({"a": 1})
    assert frame != b"\x81\xa1a\x01"
    assert settings.serializer.decode(frame) == {"a": 1}


def test_a_missing_driver_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        raise MissingDriver("pip install django-anyio-channels[carrier-pigeon]")

    monkeypatch.setattr(django_anyio_channels, "__getattr__", load)
    with pytest.raises(MissingDriver, match="carrier-pigeon"):
        read_config({"layer": "django_anyio_channels.PigeonLayer"})


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
