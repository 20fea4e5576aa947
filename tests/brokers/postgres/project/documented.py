"""What docs/brokers/postgresql.rst says one should know of sending in a transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DataError, InternalError, NotSupportedError, connection, transaction
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.core.exceptions import NotSupported

layer: Any = get_channel_layer()
END = {"type": "end"}
N = {"type": "number", "n": 1}


def elsewhere(work: Callable[[], object]) -> None:
    """Work in a thread of its own, hence on a connection of its own."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed


def received(channel: str) -> list[dict[str, Any]]:
    """What has arrived before something that is sent at once, now."""
    elsewhere(lambda: layer.send_sync(channel, END))

    async def until_end() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while (message := await asyncio.wait_for(layer.receive(channel), 15)) != END:
            found.append(message)
        return found

    return async_to_sync(until_end)()


def member(room: str) -> str:
    channel: str = async_to_sync(layer.new_channel)()
    layer.group_add_sync(room, channel)
    return channel


def new(kind: str) -> str:
    return f"{kind}.{uuid4().hex}"


class ToKnow(TransactionTestCase):
    async def test_synchronous_methods_in_the_thread_of_an_event_loop(self) -> None:
        with self.assertRaisesMessage(SynchronousOnlyOperation, "from an async context"):
            layer.in_transaction().group_send_sync("room", N)

    def test_the_members_are_those_at_the_time_of_the_commit(self) -> None:
        room = new("room")
        leaves, joins = member(room), member(new("other"))
        with transaction.atomic():
            layer.in_transaction().group_send_sync(room, N)
            layer.group_discard_sync(room, leaves)
            layer.group_add_sync(room, joins)
        assert (received(leaves), received(joins)) == ([], [N])

    def test_expiry_begins_when_it_is_sent(self) -> None:
        short: Any = AnyioChannelLayer(database="default", expiry=0.1)
        jobs = new("jobs")
        with transaction.atomic():
            short.in_transaction().send_sync(jobs, N)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.2)")  # the time itself is what is tested
        assert received(jobs) == []
        async_to_sync(short.close)()

    def test_transactions_that_are_open_at_once_may_exceed_a_capacity_together(self) -> None:
        small: Any = AnyioChannelLayer(database="default", capacity=1)
        jobs = new("jobs")

        def send() -> None:
            with transaction.atomic():
                small.in_transaction().send_sync(jobs, N)

        with transaction.atomic():
            small.in_transaction().send_sync(jobs, N)
            elsewhere(send)
        assert received(jobs) == [N, N]
        async_to_sync(small.close)()

    def test_the_methods_are_queries(self) -> None:
        with transaction.atomic(), CaptureQueriesContext(connection) as queries:
            layer.in_transaction().group_send_sync("empty", N)
        assert "pg_notify" in queries[0]["sql"]

    def test_an_error_of_the_database_spoils_the_transaction(self) -> None:
        room = new("room")
        me = member(room)
        with transaction.atomic():
            layer.in_transaction().group_send_sync(room, N)
            with suppress(DataError), connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
            with self.assertRaisesMessage(InternalError, "current transaction is aborted"):
                layer.in_transaction().group_send_sync(room, N)
            transaction.set_rollback(True)
        assert received(me) == []

    def test_normal_channels_need_their_tables_in_the_search_path(self) -> None:
        room, jobs = new("room"), new("jobs")
        me = member(room)
        layer.group_add_sync(room, jobs)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL search_path = nowhere")
            layer.in_transaction().group_send_sync(room, N)
            with self.assertRaisesMessage(NotSupported, "the search_path of "), transaction.atomic():
                layer.in_transaction().send_sync(jobs, N)
        assert (received(me), received(jobs)) == ([N], [])

    def test_no_two_phase_commit(self) -> None:
        with self.assertRaisesMessage(NotSupportedError, "cannot PREPARE a transaction that has executed"):
            with transaction.atomic(), connection.cursor() as cursor:
                layer.in_transaction().group_send_sync("empty", N)
                cursor.execute("PREPARE TRANSACTION 'first phase'")


class InATestCase(TestCase):
    def test_nothing_arrives(self) -> None:
        room = new("room")
        me = member(room)
        layer.in_transaction().group_send_sync(room, N)
        assert received(me) == []
