"""Test cases of Django's kind: two classes with the same tests, for two processes that meet in each."""

from __future__ import annotations

import os
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase

from django_anyio_channels import AnyioChannelLayer, ListenerClosed, get_channel_layer
from tests.testing.project.meeting import meet

layer: AnyioChannelLayer = get_channel_layer()
"""Made before there is a test run, or a process of ``--parallel``."""
other = channel_layers["other"]
"""Of another package, which is left alone."""

END = {"type": "end"}


def received(channel: str) -> list[dict[str, Any]]:
    """All that waits on a channel."""
    layer.send_sync(channel, END)
    found = []
    while (message := async_to_sync(layer.receive)(channel)) != END:
        found.append(message)
    return found


class Tests(SimpleTestCase):
    """What the test cases share."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        meet("classes")
        print(f"prefix of {os.getpid()}: {layer._names.prefix}", flush=True)

    def test_1_queue_is_of_this_process(self) -> None:
        own = {"type": "job", "process": os.getpid()}
        meet("queue")
        layer.send_sync("jobs", own)
        meet("queue filled")
        assert received("jobs") == [own]

    def test_2_group_is_of_this_process(self) -> None:
        own = {"type": "job", "process": os.getpid()}
        layer.group_add_sync("group", "member")
        channel = async_to_sync(layer.new_channel)()
        layer.group_add_sync("group", channel)
        meet("group")
        layer.group_send_sync("group", own)
        meet("group filled")
        assert received("member") == received(channel) == [own]

    def test_3_leaves_something(self) -> None:
        layer.send_sync("left", {"type": "left"})
        layer.group_add_sync("left", "member")
        meet("left")

    def test_4_begins_empty(self) -> None:
        layer.group_send_sync("left", {"type": "left"})
        assert received("left") == received("member") == []

    def test_5_captured(self) -> None:
        with layer.captured() as sent:
            layer.group_send_sync("orders", {"type": "order", "lines": (1, 2)})
            async_to_sync(layer.send)("jobs", {"type": "job"})
        assert sent == [
            ("group", "orders", {"type": "order", "lines": (1, 2)}),
            ("channel", "jobs", {"type": "job"}),
        ]
        assert received("jobs") == [{"type": "job"}]

    def test_6_outage(self) -> None:
        with layer.outage(), pytest.raises(ListenerClosed, match=r"the test is in layer.outage\(\)"):
            layer.send_sync("jobs", {"type": "job"})
        layer.send_sync("jobs", {"type": "job"})
        assert received("jobs") == [{"type": "job"}]


def captured_in_a_transaction() -> None:
    with layer.captured() as sent:
        with transaction.atomic():
            layer.in_transaction().send_sync("jobs", {"type": "job"})
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            layer.in_transaction().group_send_sync("orders", {"type": "never"})
            raise ZeroDivisionError
    assert sent == [("channel", "jobs", {"type": "job"})]


class InTestCase(Tests, TestCase):
    """In a transaction that never commits."""

    def test_7_captured_in_a_transaction(self) -> None:
        if connection.vendor == "postgresql":
            captured_in_a_transaction()


class InTransactionTestCase(Tests, TransactionTestCase):
    """With transactions that commit."""

    def test_7_captured_in_a_transaction(self) -> None:
        if connection.vendor == "postgresql":
            captured_in_a_transaction()
            assert received("jobs") == [{"type": "job"}]


del Tests  # it is no test case itself
