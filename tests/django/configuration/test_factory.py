"""`django.configuration.factory`: the layers that CONFIG describes, and the errors for what cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

import django_anyio_channels
from django_anyio_channels import InMemoryBroker, InMemoryChannelLayer
from django_anyio_channels.core.exceptions import MissingDriver
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.configuration.factory import LAYERS, layer_class
from django_anyio_channels.django.settings import ConfigError
from tests.core.test_layer import SixVerbs


class Own(InMemoryChannelLayer):
    """A project's own layer."""


@pytest.mark.parametrize("scheme", LAYERS)
def test_every_scheme_has_a_layer_that_the_package_exports(scheme: str) -> None:
    found = layer_class(scheme)
    assert getattr(django_anyio_channels, found.__name__) is found


@pytest.mark.parametrize(
    ("config", "message", "hint", "code"),
    [
        ({"url": "memory://", "layer": Own}, "both 'url' and 'layer'", "Keep 'url' for a broker", "E002"),
        ({"url": "memory://", "options": {"url": "memory://"}}, "'url' twice", "Remove the one in", "E002"),
        ({"url": "redis+socket:///run/redis.sock"}, "scheme 'redis+socket'", "Write unix:///path", "E003"),
        ({"url": "memry://"}, "unknown scheme 'memry'", "Did you mean 'memory'?", "E003"),
        ({"url": "http://h"}, "unknown scheme 'http'", "The schemes are memory, redis", "E003"),
        ({"url": ""}, "CONFIG['url'] has an invalid value (str)", "a str such as 'redis://localhost:6379'", "E005"),
        ({"url": None}, "CONFIG['url'] has an invalid value (NoneType)", "such as 'redis://localhost:6379'", "E005"),
        ({"url": "no url at all"}, "has no scheme", "Begin it like 'redis://localhost'", "E003"),
        ({"url": "user:secret@redis://h"}, "has no scheme", "Begin it like 'redis://localhost'", "E003"),
        ({"url": "mqtt:/h"}, "has no scheme", "Begin it like 'mqtt://localhost'", "E003"),
        ({"url": "mqtt://user:a/b@host"}, "The mqtt:// URL cannot be read: percent-encode", "Correct 'url'", "E003"),
        ({"url": 7}, "CONFIG['url'] has an invalid value (int)", "such as 'redis://localhost:6379'", "E005"),
        ({"url": "memory://shop"}, "The in-memory layer has one URL only", "Correct 'url'", "E003"),
        ({"options": {"speed": 1}}, "InMemoryChannelLayer has no option 'speed'", "or 'options'", "E003"),
        ({"options": {"brokr": 1}}, "no option 'brokr'. Did you mean 'broker'?", "or 'options'", "E003"),
        (
            {"options": [1]},
            "CONFIG['options'] has an invalid value (list)",
            "a dict of the layer's keyword arguments",
            "E005",
        ),
        ({"layer": "no.such.Layer"}, "cannot be imported: No module named 'no'", "dotted path of a subclass", "E003"),
        ({"url": []}, "CONFIG['url'] is an empty list", "Name at least one broker", "E003"),
        ({"url": ["memory://", 7]}, "CONFIG['url'] has an invalid value (int)", "or a list of them", "E005"),
        ({"url": ["memory://", "redis://x"]}, "of different kinds: memory, redis", "several of one kind", "E003"),
        ({"url": 3 * ["redis://:secret@x"]}, "lists the broker at place 1 twice", "Name each broker once", "E003"),
        ({"layer": ".layers.Own"}, "cannot be imported: the 'package'", "dotted path of a subclass", "E003"),
        ({"layer": ".Own"}, "cannot be imported: Empty module name", "dotted path of a subclass", "E003"),
        ({"layer": "django_anyio_channels.Event"}, "is not a layer (Event)", "dotted path of a subclass", "E003"),
        ({"layer": "redis://:secret@h"}, "CONFIG['layer'] has an invalid value (str)", "dotted path of", "E005"),
        ({"layer": 7}, "CONFIG['layer'] is not a layer (int)", "or the class itself", "E003"),
    ],
    ids=lambda value: None,
)
def test_a_description_that_cannot_be_used(config: dict[str, Any], message: str, hint: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)
    assert caught.value.code == code


def test_a_list_of_brokers_makes_a_layer_for_each() -> None:
    made = read_config({"url": ["redis://a", "redis://b/1"]}).make_layers()
    assert [layer.address for layer in made] == ["redis://a:6379/0", "redis://b:6379/1"]


@pytest.mark.parametrize("layer", [Own, f"{__name__}.Own"])
def test_a_custom_layer(layer: object) -> None:
    broker = InMemoryBroker()
    [made] = read_config({"layer": layer, "options": {"broker": broker}}).make_layers()
    assert isinstance(made, Own)
    assert made.broker is broker


def test_a_custom_layer_need_not_be_in_memory() -> None:
    [made] = read_config({"layer": SixVerbs}).make_layers()
    assert isinstance(made, SixVerbs)


def test_layers_of_one_config_share_the_broker_and_layers_of_two_do_not() -> None:
    one, other = read_config({}), read_config({})

    def broker_of(layer: object) -> InMemoryBroker:
        assert isinstance(layer, InMemoryChannelLayer)
        return layer.broker

    assert broker_of(one.make_layers()[0]) is broker_of(one.make_layers()[0])
    assert broker_of(one.make_layers()[0]) is not broker_of(other.make_layers()[0])


def test_a_missing_driver_is_not_a_mistake_in_config(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        raise MissingDriver("pip install django-anyio-channels[carrier-pigeon]")

    monkeypatch.setattr(django_anyio_channels, "__getattr__", load)
    with pytest.raises(MissingDriver, match="carrier-pigeon"):
        read_config({"layer": "django_anyio_channels.PigeonLayer"})


@pytest.mark.parametrize(
    "config",
    [
        {"url": "mqtt://broker/?client_id=web"},
        {"url": "mqtt://broker", "options": {"client_id": "web", "session_expiry": 60}},
        {"layer": "django_anyio_channels.MQTTChannelLayer", "options": {"host": "broker", "client_id": "web"}},
    ],
)
def test_options_for_one_connection_are_refused_with_the_reason(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="each event loop of each process of a Django project has its own") as caught:
        read_config(config)
    assert "client_id and session_expiry" in str(caught.value)
