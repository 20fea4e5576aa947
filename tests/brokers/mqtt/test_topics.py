"""Group names as topics, patterns as topic filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_anyio_channels.brokers.mqtt.topics import matches, to_filter, to_group, to_topic

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=50)


@given(ANY_TEXT)
def test_every_name_comes_back(name: str) -> None:
    topic = to_topic(name)
    assert to_group(topic) == name
    assert topic
    assert not set(topic) & set(b"+#\0")
    topic.decode()


@given(ANY_TEXT, ANY_TEXT)
def test_different_names_are_different_topics(one: str, other: str) -> None:
    assert (to_topic(one) == to_topic(other)) == (one == other)


@pytest.mark.parametrize("name", ["room", "asgi:g:chat.room", "home/kitchen/temperature", "Ωμέγα", "a b"])
def test_what_mqtt_allows_is_not_encoded(name: str) -> None:
    assert to_topic(name) == name.encode()


@pytest.mark.parametrize(
    ("name", "topic"),
    [("", b"%"), ("a+b", b"a%2Bb"), ("#", b"%23"), ("50%", b"50%25"), ("$share/x", b"%24share/x"), ("a\0b", b"a%00b")],
)
def test_what_mqtt_forbids_is_percent_encoded(name: str, topic: bytes) -> None:
    assert to_topic(name) == topic


@pytest.mark.parametrize("topic", [b"50%", b"100%zz", b"%FF", b"\xff"])
def test_a_foreign_topic_has_a_name_too(topic: bytes) -> None:
    assert isinstance(to_group(topic), str)


def test_a_name_that_no_topic_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="has 65536 bytes, more than 65535"):
        to_topic("x" * 65_536)


@pytest.mark.parametrize("pattern", ["a/b+", "a/#/b", "#a", "a/+b/c", "x#"])
def test_a_pattern_that_is_no_topic_filter_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"In the pattern '.*' .* must be"):
        to_filter(pattern)


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="# matches every topic"):
        to_filter("")


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("+/+", "/x", True),
        ("#", "anything/at/all", True),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
        ("$share/group/a/+", "a/b", True),
        ("a/b", "a/c", False),
    ],
)
def test_matching(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern.encode(), topic.encode()) is expected
