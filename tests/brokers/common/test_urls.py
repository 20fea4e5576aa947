"""One reader of URLs for all brokers: what it reads, and that no error shows a part of a password."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from django_anyio_channels.brokers.common.urls import (
    BrokerURL,
    host_and_port,
    hosts_and_ports,
    read_url,
    without_secrets,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", BrokerURL("redis", (), None, None, ("",), "", "")),
        ("redis://host", BrokerURL("redis", (), None, None, ("host",), "", "")),
        ("redis://host:6379/0?x=1", BrokerURL("redis", (), None, None, ("host:6379",), "0", "x=1")),
        ("REDISS+Sentinel://h1:1,h2/m/0", BrokerURL("rediss", ("sentinel",), None, None, ("h1:1", "h2"), "m/0", "")),
        ("redis+a+b://[::1]:7,[::2]", BrokerURL("redis", ("a", "b"), None, None, ("[::1]:7", "[::2]"), "", "")),
        ("unix:///run/re@dis.sock?db=1", BrokerURL("unix", (), None, None, ("",), "run/re@dis.sock", "db=1")),
        ("unix://me:pw@/run/redis.sock", BrokerURL("unix", (), "me", "pw", ("",), "run/redis.sock", "")),
        ("mqtt://me@host:", BrokerURL("mqtt", (), "me", None, ("host:",), "", "")),
        ("mqtt://me:@host", BrokerURL("mqtt", (), "me", None, ("host",), "", "")),
        ("mqtt://:@host", BrokerURL("mqtt", (), None, None, ("host",), "", "")),
        ("mqtt://:p%40s@s%2F:%23@host", BrokerURL("mqtt", (), None, "p@s@s/:#", ("host",), "", "")),
        ("mqtt://host?client_id=a@b&qos=1", BrokerURL("mqtt", (), None, None, ("host",), "", "client_id=a@b&qos=1")),
        ("mqtt://me:pw@host:1/?will=a@b", BrokerURL("mqtt", (), "me", "pw", ("host:1",), "", "will=a@b")),
        ("postgresql:///shop?host=/tmp", BrokerURL("postgresql", (), None, None, ("",), "shop", "host=/tmp")),
        ("postgresql://%2Ftmp/a%40b", BrokerURL("postgresql", (), None, None, ("%2Ftmp",), "a%40b", "")),
    ],
)
def test_what_is_read(url: str, expected: BrokerURL) -> None:
    assert read_url(url) == expected


def test_what_is_shown_of_a_url() -> None:
    assert repr(read_url("redis://me:secret@h1:1,h2/0?password=secret")) == "<BrokerURL redis://h1:1,h2/0>"
    shown = {
        "redis://me:secret@host:1/0?password=secret": "redis://host:1/0",
        "redis+cluster://:secret@h1:1,h2": "redis+cluster://h1:1,h2",
        "mqtt://host/": "mqtt://host/",
        "unix:///run/redis.sock": "unix:///run/redis.sock",
        "redis://me:sec/ret@host": "redis://...",
        "redis:/me:secret@host": "...",
        "me:secret@redis://host": "...",
    }
    assert {url: without_secrets(url) for url in shown} == shown


def test_a_url_without_a_scheme() -> None:
    for url in ("", "host:6379", "me:secret@host", "redis:/me:secret@host", "me:secret@redis://host", "://host"):
        with pytest.raises(ValueError, match="no scheme. Begin it like redis://") as caught:
            read_url(url)
        assert "secret" not in str(caught.value)


UNREADABLE = [
    "redis://me:sec/ret@host",
    "redis://me:sec?ret@host",
    "redis://me:sec#ret@host",
    "redis://me:s@c/ret@host:1/0",
    "redis://me:s@c?ret@host:1/0",
    "redis://me:1/ret@host",
    "redis://me:1?ret@host",
    "redis://me:?sec=ret@host",
    "redis://me:sec?r=et@host",
    "redis://me:?@host",
    "redis://:/@host",
    "redis://:sec#ret@host",
    "redis://me:secret",
    "redis://h1:1,me:secret",
    "redis://fe80::secret",
    "redis://host/#secret",
    "redis://host?x#secret",
]


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_password_that_is_not_encoded_is_refused_with_the_cure(url: str) -> None:
    with pytest.raises(ValueError, match=r"^The redis:// URL cannot be read: percent-encode the password") as caught:
        read_url(url)
    assert not re.search("sec|ret|host:", str(caught.value))
    assert without_secrets(url) == "redis://..."


PASSWORDS = st.text(
    st.one_of(st.sampled_from("/?#@:=&%[],+ "), st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
)


def is_like_a_port(password: str) -> bool:
    """Return whether the password begins like the port of a URL with options, which cannot be told from one."""
    return re.match(r"[0-9]+(/[^?]*)?\?", password) is not None


@given(username=st.text("abcß/@:", max_size=3), password=PASSWORDS)
def test_encoded_credentials_are_read(username: str, password: str) -> None:
    credentials = f"{quote(username, safe='')}:{quote(password, safe='')}"
    parts = read_url(f"rediss+cluster://{credentials}@h1:1,[::1]/0?x=y@z")
    assert (parts.username or "", parts.password or "") == (username, password)
    assert (parts.hosts, parts.path, parts.query) == (("h1:1", "[::1]"), "0", "x=y@z")


@given(password=PASSWORDS)
@example("1/a?b")
@example("a@b/c")
@example("a@1?c")
def test_a_password_as_it_is_is_read_or_refused_and_never_shown(password: str) -> None:
    assume(not is_like_a_port(password) and "%" not in password)
    # What surrounds it holds none of its characters but these, so what is shown cannot be a part of it by accident.
    url = f"redis://:{password}@:1"
    shown = without_secrets(url)
    try:
        parts = read_url(url)
    except ValueError as error:
        assert set("/?#") & set(password)
        assert shown == "redis://..."
        assert str(error).startswith("The redis:// URL cannot be read: percent-encode the password")
    else:
        assert not set("/?#") & set(password)
        assert shown == "redis://:1"
        assert (parts.password or "") == password
        assert repr(parts) == "<BrokerURL redis://:1/>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 7)),
        ("host:1", ("host", 1)),
        ("host:", ("host", 7)),
        (":65535", ("", 65535)),
        ("[::1]", ("::1", 7)),
        ("[::1]:1", ("::1", 1)),
        ("", ("", 7)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text, 7) == expected


@pytest.mark.parametrize("port", ["0", "65536", "secret", "-1", "²"])
def test_a_wrong_port_is_refused_and_not_shown(port: str) -> None:
    with pytest.raises(ValueError, match="^A port in the URL is not a number from 1 to 65535$"):
        host_and_port(f"host:{port}", 7)


def test_every_host_of_a_url_has_a_name() -> None:
    assert hosts_and_ports(read_url("redis+cluster://a,[::1]:2"), 7) == [("a", 7), ("::1", 2)]
    for url in ("redis+cluster://", "redis+cluster://a,", "redis+cluster://:secret@:5"):
        with pytest.raises(ValueError, match=r"^The redis\+cluster:// URL names no host; write it like .*localhost:7$"):
            hosts_and_ports(read_url(url), 7)
