"""Who else carries messages over PostgreSQL: channels_postgres, and asyncpg with as little as possible around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ...harness.bare import BareClient, bare
from ...harness.children import in_child
from ...harness.contenders import Connections, Contender, Layer

if TYPE_CHECKING:
    import asyncpg


# ---- channels_postgres ----------------------------------------------------------------------------------------------


def channels_postgres(name: str, database: dict[str, Any], connections: Callable[[], Connections]) -> Contender:
    """``channels_postgres``, as its documentation sets it up; ``database`` is as in Django's ``DATABASES``.

    Its tables must be there: `migrate`.
    """

    def make() -> Layer:
        _set_django_up(database)
        from .listening import ListeningLayer

        return cast(Layer, ListeningLayer(**database))

    async def close(layer: Layer) -> None:
        from channels_postgres import db

        pool, db.connection_pool = db.connection_pool, None
        if pool is not None:
            await pool.close()

    return Contender(name, make, close, connections, moment=1.0)


def migrate(database: dict[str, Any]) -> None:
    """Make the tables of channels_postgres, in a process of its own: here Django stays as it is."""

    def run() -> None:
        _set_django_up(database)
        from django.core.management import call_command

        call_command("migrate", database="channels_postgres", verbosity=0)

    in_child(run, 60.0)


def _set_django_up(database: dict[str, Any]) -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            DATABASES={"default": {}, "channels_postgres": database}, INSTALLED_APPS=["channels_postgres"]
        )
        django.setup()


# ---- bare asyncpg ---------------------------------------------------------------------------------------------------


class BareAsyncpg(BareClient):
    """What asyncpg does at best: concurrent ``NOTIFY`` in one statement.

    A payload of NOTIFY is text of 7999 bytes at most, and there are no normal channels.
    """

    def __init__(self, url: str) -> None:
        super().__init__(lambda message: msgspec.json.encode(message).decode(), msgspec.json.decode)
        self._url = url
        self._listening: asyncpg.Connection
        self._publishing: asyncpg.Connection
        self._waiting: list[tuple[str, str, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        import asyncpg

        self._listening, self._publishing = [await asyncpg.connect(self._url) for _ in range(2)]

    async def subscribe(self, topic: str) -> None:
        await self._listening.add_listener(topic, self._notified)

    async def unsubscribe(self, topic: str) -> None:
        await self._listening.remove_listener(topic, self._notified)

    async def publish(self, topic: str, payload: Any) -> None:
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((topic, payload, sent))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await sent

    async def disconnect(self) -> None:
        for connection in (self._listening, self._publishing):
            connection.terminate()

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            topics, payloads = [topic for topic, _, _ in batch], [payload for _, payload, _ in batch]
            await self._publishing.execute(
                "SELECT pg_notify(g, p) FROM unnest($1::text[], $2::text[]) AS t(g, p)", topics, payloads
            )
            for _, _, sent in batch:
                sent.set_result(None)
        self._flushing = None

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.arrive(channel, payload)


def bare_asyncpg(name: str, url: str, connections: Callable[[], Connections]) -> Contender:
    """`BareAsyncpg` as a contender."""
    return bare(name, lambda: BareAsyncpg(url), connections)
