"""`django.names`: what a channel name tells, and that prefixes keep topics apart."""

from __future__ import annotations

import pytest

from django_anyio_channels.django.names import (
    UNOWNED,
    BrokerNames,
    is_channel_of,
    new_channel_name,
    new_node_id,
    node_of,
    owner_of,
)


def test_a_name_tells_its_node_and_its_owner() -> None:
    node = new_node_id()
    name = new_channel_name("my.prefix", node, "2f")
    assert name.startswith("my.prefix.")
    assert (node_of(name), owner_of(name)) == (node, "2f")
    assert is_channel_of(node, name)
    assert not is_channel_of(new_node_id(), name)
    assert new_channel_name("my.prefix", node, "2f") != name


@pytest.mark.parametrize("name", ["jobs", "jobs.0123456789abcdef", "specific.0123!a", "specific!0123456789abcdef", ""])
def test_other_names_belong_to_no_node(name: str) -> None:
    assert node_of(name) is None
    assert owner_of(name) == UNOWNED


@pytest.mark.parametrize("name", ["x.0123456789abcdef!y\n", "x y.0123456789abcdef!", "\ufffd.0123456789abcdef!y"])
def test_what_is_not_a_name_belongs_to_no_node(name: str) -> None:
    assert not is_channel_of("0123456789abcdef", name)


def test_no_prefix_is_the_beginning_of_another() -> None:
    prefixes = [BrokerNames(prefix) for prefix in ("a", "a:g", "a:g:", "a%3Ag", "a:", "ab")]
    topics = [
        {names.nodes, names.group("x"), names.inbox("x"), names.queue("x"), names.prefix + "x"} for names in prefixes
    ]
    for names in prefixes:
        for other, found in zip(prefixes, topics, strict=True):
            assert {topic.startswith(names.prefix) for topic in found} == {names is other}
