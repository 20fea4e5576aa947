"""Who else carries messages over PostgreSQL: channels_postgres, and asyncpg with as little as possible around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import msgspec

from .children import in_child
from .contenders import Connections, Contender, Layer, Message

if TYPE_CHECKING:
    import asyncpg


# ---- channels_postgres ----------------------------------------------------------------------------------------------


def channels_postgres(name: str, database: dict[str, Any], connections: Callable[[], Connections]) -> Contender:
    """``channels_postgres``, as its documentation sets it up; ``database`` is as in Django's ``DATABASES``.

    Its tables must be there: `migrate`.
    """

    def make() -> Layer:
        _set_django_up(database)
        from channels_postgres.core import PostgresChannelLayer

        class Listening(PostgresChannelLayer):  # type: ignore[misc]
            """Listens from its first name on. A hundred readers who begin at once would start a hundred listeners."""

            async def new_channel(self, prefix: str = "specific") -> str:
                listening, is_first = self._get_or_create_listener_task()
                if is_first:
                    self.listener = asyncio.create_task(self.listen_to_all_channels())
                await listening.wait()
                return cast(str, await super().new_channel(prefix))

        return cast(Layer, Listening(**database))

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


class BareAsyncpg:
    """What asyncpg does at best: concurrent ``NOTIFY`` in one statement, a queue a member, no limits or checks.

    A payload of NOTIFY has 7999 bytes at most, and there are no normal channels.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connecting = asyncio.Lock()
        self._connections: list[asyncpg.Connection] = []
        self._queues: dict[str, asyncio.Queue[str]] = {}
        self._members: dict[str, list[asyncio.Queue[str]]] = {}
        self._numbers = count()
        self._node = uuid4().hex
        self._waiting: list[tuple[str, str, asyncio.Future[None]]] = []
        self._flights: asyncio.Task[None] | None = None

    async def send(self, channel: str, message: Message) -> None:
        await self.group_send(channel, message)

    async def group_send(self, group: str, message: Message) -> None:
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((group, msgspec.json.encode(message).decode(), sent))
        if self._flights is None:
            self._flights = asyncio.create_task(self._fly())
        await sent

    async def receive(self, channel: str) -> Message:
        return cast(Message, msgspec.json.decode(await self._queues[channel].get()))

    async def new_channel(self) -> str:
        name = f"{self._node}!{next(self._numbers)}"
        self._queues[name] = asyncio.Queue()
        await self.group_add(name, name)
        return name

    async def group_add(self, group: str, channel: str) -> None:
        if group not in self._members:
            self._members[group] = []
            listening, _ = await self._connected()
            await listening.add_listener(group, self._heard)
        self._members[group].append(self._queues[channel])

    async def group_discard(self, group: str, channel: str) -> None:
        self._members[group].remove(self._queues[channel])
        if not self._members[group]:
            del self._members[group]
            listening, _ = await self._connected()
            await listening.remove_listener(group, self._heard)

    async def close(self) -> None:
        for connection in self._connections:
            connection.terminate()

    async def _connected(self) -> list[asyncpg.Connection]:
        import asyncpg

        async with self._connecting:
            if not self._connections:
                self._connections = [await asyncpg.connect(self._url) for _ in range(2)]
        return self._connections

    async def _fly(self) -> None:
        _, publishing = await self._connected()
        while self._waiting:
            flying, self._waiting = self._waiting, []
            groups, payloads = [group for group, _, _ in flying], [payload for _, payload, _ in flying]
            await publishing.execute(
                "SELECT pg_notify(g, p) FROM unnest($1::text[], $2::text[]) AS t(g, p)", groups, payloads
            )
            for _, _, sent in flying:
                sent.set_result(None)
        self._flights = None

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        for queue in self._members.get(channel, ()):
            queue.put_nowait(cast(str, payload))


def bare_asyncpg(name: str, url: str, connections: Callable[[], Connections]) -> Contender:
    """`BareAsyncpg` as a contender."""

    async def close(layer: Layer) -> None:
        await cast(BareAsyncpg, layer).close()

    return Contender(name, lambda: BareAsyncpg(url), close, connections)
