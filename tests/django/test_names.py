"""`django.names`: what a channel name tells, and that prefixes keep topics apart."""

from __future__ import annotations

import pytest

from django_anyio_channels.django.names import (
    BrokerNames,
    is_channel_of,
    is_of_consumer,
    new_channel_name,
    new_node_id,
    node_of,
)


@pytest.mark.parametrize("of_consumer", [False, True])
def test_a_name_tells_its_node_and_whether_it_is_of_a_consumer(of_consumer: bool) -> None:
    node = new_node_id()
    name = new_channel_name("my.prefix", node, of_consumer=of_consumer)
    assert name.startswith("my.prefix.")
    assert (node_of(name), is_of_consumer(name)) == (node, of_consumer)
    assert is_channel_of(node, name)
    assert not is_channel_of(new_node_id(), name)
    assert new_channel_name("my.prefix", node, of_consumer=of_consumer) != name


@pytest.mark.parametrize("name", ["jobs", "jobs.0123456789abcdef", "specific.0123!a", "specific!0123456789abcdef", ""])
def test_other_names_belong_to_no_node(name: str) -> None:
    assert node_of(name) is None
    assert not is_of_consumer(name)


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
