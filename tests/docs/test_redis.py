"""What docs/brokers/redis.rst says of settings is so; the samples are read by `test_samples`."""

from __future__ import annotations

import inspect

from django_anyio_channels import RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.options import NOT_IN_URLS, OF_STREAMS
from django_anyio_channels.django.configuration.config import read_config

from .pages import page

PAGE = page("docs/brokers/redis.rst")


def test_the_layers_own_options_are_documented() -> None:
    of_redis_py = {"connection_class", "credential_provider"}
    assert PAGE.words("own") == NOT_IN_URLS - set(OF_STREAMS) - of_redis_py - {"url"}
    parameters = inspect.signature(RedisPubSubChannelLayer).parameters
    assert PAGE.rows("own")["probe_interval"][0] == str(parameters["probe_interval"].default)


def test_the_addresses_are_those_of_the_url() -> None:
    [cluster] = [block.astext() for block in PAGE.in_language("python") if "address_remap" in block.astext()]
    names: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    exec(cluster, names)
    [layer] = read_config(names["CHANNEL_LAYERS"]["default"]["CONFIG"]).make_layers()
    assert layer.address == "redis+cluster://redis.example.com:7000"
