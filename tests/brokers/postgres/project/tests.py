"""The project's own tests. They pass only if the layer works in the same test database as Django."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from tests.brokers.postgres.project.models import Note
from tests.support.brokers.server import wait_until

layer: Any = get_channel_layer()
# There is no test database yet, so this link leads to the real one.
layer.group_send_sync("early", {"type": "early"})

OTHER = {"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": {"database": "default"}}}
paused = asyncio.new_event_loop()


def count_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'django-anyio-channels' AND datname = current_database()"
        )
        [(count,)] = cursor.fetchall()
    assert isinstance(count, int)
    return count


async def there_and_back(text: str) -> dict[str, Any]:
    channel = await layer.new_channel()
    await layer.group_add("notes", channel)
    await layer.group_send("notes", {"type": "note", "text": text})
    await layer.send("a-queue", {"type": "job"})
    assert await layer.receive("a-queue") == {"type": "job"}
    received: dict[str, Any] = await layer.receive(channel)
    await layer.group_discard("notes", channel)
    return received


class Follows:
    """What both kinds of test case check."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()  # type: ignore[misc]
        if "MEET" in os.environ:  # whoever runs both test cases at once has two processes
            folder = Path(os.environ["MEET"])
            (folder / cls.__name__).touch()
            wait_until(lambda: len(list(folder.iterdir())) == 2, "the other test case begins")

    def test_the_layer_is_in_the_test_database(self) -> None:
        Note.objects.create(text="a")
        assert async_to_sync(there_and_back)("a") == {"type": "note", "text": "a"}
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('django_anyio_channels_queue') IS NOT NULL, current_database()")
            [(made_here, database)] = cursor.fetchall()
            cursor.execute(
                "SELECT DISTINCT datname FROM pg_stat_activity WHERE application_name = 'django-anyio-channels' "
                "AND datname = current_database()"
            )
            assert cursor.fetchall() == [(database,)]
        assert made_here
        assert database.startswith("test_")
        print(f"followed to {database}", flush=True)

    def test_asynchronously_too(self) -> None:
        assert async_to_sync(there_and_back)("b") == {"type": "note", "text": "b"}


class InTestCase(Follows, TestCase):
    """In a transaction that is rolled back."""

    def test_what_is_sent_in_its_transaction_is_never_delivered(self) -> None:
        channel = async_to_sync(layer.new_channel)()
        with transaction.atomic():
            layer.in_transaction().send_sync(channel, {"type": "never"})
        layer.send_sync(channel, {"type": "at.once"})
        assert async_to_sync(layer.receive)(channel) == {"type": "at.once"}


class InTransactionTestCase(Follows, TransactionTestCase):
    """In a database that is flushed."""

    def test_what_is_sent_in_a_transaction_is_delivered(self) -> None:
        channel = async_to_sync(layer.new_channel)()
        with transaction.atomic():
            note = Note.objects.create(text="a")
            layer.in_transaction().send_sync(channel, {"type": "note", "id": note.pk})
        assert async_to_sync(layer.receive)(channel) == {"type": "note", "id": note.pk}

    def test_a_layer_that_channels_drops_leaves_no_connection(self) -> None:
        layer.group_send_sync("notes", {"type": "note"})
        before = count_connections()
        for _ in range(2):
            with override_settings(CHANNEL_LAYERS=OTHER):
                dropped: Any = get_channel_layer()
                dropped.group_send_sync("notes", {"type": "note"})
                assert count_connections() > before
            del dropped
            wait_until(lambda: count_connections() == before, "its connections are closed")

    def test_a_layer_that_channels_drops_while_its_event_loop_pauses(self) -> None:
        async def send() -> None:
            other: Any = get_channel_layer()
            await other.new_channel()

        with override_settings(CHANNEL_LAYERS=OTHER):
            paused.run_until_complete(send())

    async def test_in_an_asynchronous_test(self) -> None:
        assert await there_and_back("c") == {"type": "note", "text": "c"}
