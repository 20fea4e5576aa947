"""How straight the way of a message is."""

from __future__ import annotations

from tests.support.file_changes import count, files


def test_a_message_in_memory_changes_file_as_seldom_as_today() -> None:
    assert count("memory://") <= 18


def test_the_way_begins_at_the_sender_and_ends_at_the_reader() -> None:
    way = files("memory://")
    assert (way[0], way[-1]) == ("django/layer.py", "core/serializers.py")
    assert {"hub/channel.py", "brokers/memory/broker.py", "hub/subscriber.py"} < set(way)
