"""The options of the layers on Redis: what is refused when a layer is made."""

from __future__ import annotations

import math
import ssl
from typing import Any

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from django_anyio_channels import RedisPubSubChannelLayer, RedisStreamsChannelLayer
from django_anyio_channels.brokers.redis.options import NOT_IN_URLS, OF_STREAMS
from django_anyio_channels.core.exceptions import InvalidOption
from django_anyio_channels.core.options import option_names


@pytest.mark.parametrize(
    "options",
    [
        *({"probe_interval": value} for value in (0, "100", None, math.nan, True, -1, math.inf)),
        *({"port": value} for value in (0, 65536, "x", None, 1.5, True)),
        *({"db": value} for value in (-1, "x", 1.5, None)),
        *({"socket_connect_timeout": value} for value in (0, "5", math.nan)),
        *({name: 7} for name in ("url", "host", "path", "unix_socket_path", "username", "password", "client_name")),
        *({name: "/no/such/file"} for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")),
        {"ssl": "yes"},
        {"ssl_check_hostname": "no"},
        {"ssl_cert_reqs": "sometimes"},
        {"socket_keepalive": 1},
        {"socket_keepalive_options": [1]},
        {"sentinel_kwargs": "x"},
        *({"address_remap": value} for value in ("x", {"a": 7}, {"a": "b:0"}, {":1": "b"})),
        {"ssl_ca_path": __file__},
        {"socket_timeout": math.nan},
        {"credential_provider": "x"},
        *({"connection_class": value} for value in ("x", int)),
        {"url": "redis+cluster://h", "client_name": ""},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_or_range_is_refused(options: dict[str, Any]) -> None:
    for layer in (RedisPubSubChannelLayer, RedisStreamsChannelLayer):
        with pytest.raises(InvalidOption, match=f"^{list(options)[-1]} has an invalid value"):
            layer(**options)


@pytest.mark.parametrize("name", sorted(NOT_IN_URLS))
@pytest.mark.parametrize("where", ["redis://h", "redis+streams://h", "redis+sentinel://h/m", "redis+cluster://h"])
def test_what_cannot_stand_in_a_url_is_refused_by_name(where: str, name: str) -> None:
    layer = RedisStreamsChannelLayer if "streams" in where else RedisPubSubChannelLayer
    with pytest.raises(ValueError, match=f"^{name} cannot stand in a URL; it is a keyword argument"):
        layer(f"{where}?{name}=5")


@pytest.mark.parametrize(
    "option",
    [
        *({"history_length": value} for value in (0, None, "5", 1.5, True)),
        *({"history_age": value} for value in (0, None, "5", math.nan)),
        *({"redeliver_after": value} for value in (0, None, "5", math.inf)),
        *({"deliver_at_most": value} for value in (0, None, "5", 2.5)),
        {"consumer_group": ""},
    ],
    ids=str,
)
def test_a_history_has_limits(option: dict[str, Any]) -> None:
    [name] = option
    with pytest.raises(InvalidOption, match=f"^{name} has an invalid value"):
        RedisStreamsChannelLayer("redis+streams://h", **option)


def test_right_values_are_accepted() -> None:
    options: dict[str, Any] = {
        "probe_interval": 1,
        "username": None,
        "password": "",
        "credential_provider": UsernamePasswordCredentialProvider("x", "y"),
        "db": "3",
        "port": "6380",
        "ssl": True,
        "ssl_ca_certs": __file__,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "socket_connect_timeout": None,
    }
    made = RedisPubSubChannelLayer(host="h", **{**options, "ssl_ca_certs": None})
    assert made.address == "rediss://h:6380/3"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://h/abc", "The path of the redis:// URL is not the number of a database; write redis://host:6379/0"),
        ("rediss://h/0/1", "The path of the rediss:// URL is not the number of a database"),
        ("redis+sentinel://h/m/abc", "The path of the redis:// URL is not the number of a database"),
        ("redis+cluster://h/abc", "The path of the redis:// URL is not the number of a database"),
        ("redis://h?db=-1", "db has an invalid value (int)"),
        ("redis://h?db=abc", "Invalid value for 'db' in connection URL"),
        ("redis://", "The redis:// URL names no host; write it like redis://localhost:6379"),
        ("redis:///0", "The redis:// URL names no host; write it like redis://localhost:6379"),
        ("redis://:6379", "The redis:// URL names no host; write it like redis://localhost:6379"),
        ("redis+sentinel:///m", "The redis+sentinel:// URL names no host"),
        ("redis+cluster://a,,b", "The redis+cluster:// URL names no host"),
        ("redis://a,b", "The redis:// URL names several hosts; write redis+sentinel:// or redis+cluster://"),
        ("redis://h:0", "A port in the URL is not a number from 1 to 65535"),
        ("redis://h:99999", "A port in the URL is not a number from 1 to 65535"),
        ("redis+socket:///run/redis.sock", "redis+socket:// is written unix:///path/to/redis.sock"),
        ("redis+sentinal://h/m", "redis+sentinal:// is not a URL scheme of Redis; use redis://, rediss://"),
        ("http://h", "http:// is not a URL scheme of Redis"),
        ("unix://run/redis.sock", "The unix:// URL names no socket; write unix:///path/to/redis.sock"),
        ("redis+cluster://h:99999", "A port in the URL is not a number from 1 to 65535"),
        ("unix://", "The unix:// URL names no socket; write unix:///path/to/redis.sock"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs has an invalid value (str)"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs has an invalid value (str)"),
        ("redis://h?socket_connect_timeout=nan", "socket_connect_timeout has an invalid value (float)"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        RedisPubSubChannelLayer(url)
    assert str(caught.value).startswith(sentence)


def test_a_host_may_come_beside_the_url() -> None:
    assert RedisPubSubChannelLayer("redis:///2", host="h").address == "redis://h:6379/2"
    assert RedisPubSubChannelLayer("redis://?host=h").address == "redis://h:6379/0"
    assert RedisPubSubChannelLayer("redis://h:1/2/").address == "redis://h:1/2"


def test_options_of_sentinels_and_clusters_name_what_has_them() -> None:
    for name in ("sentinel_kwargs", "address_remap"):
        option: dict[str, Any] = {name: {}}
        with pytest.raises(TypeError, match=rf"no option '{name}'\. It is an option of redis\+sentinel://"):
            RedisPubSubChannelLayer("redis://h", **option)


def test_options_of_a_history_name_the_layer_that_has_them() -> None:
    assert option_names(RedisStreamsChannelLayer) - option_names(RedisPubSubChannelLayer) == set(OF_STREAMS)
    with pytest.raises(TypeError, match=r"no option 'history_length'\. It is an option of redis\+streams://"):
        RedisPubSubChannelLayer("redis://h", history_length=5)
    misspelt: dict[str, Any] = {"history_lenght": 5}
    with pytest.raises(TypeError, match=r"RedisStreamsChannelLayer has no .*Did you mean 'history_length'\?"):
        RedisStreamsChannelLayer("redis+streams://h", **misspelt)
