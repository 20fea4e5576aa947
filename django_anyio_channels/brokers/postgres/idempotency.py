"""Idempotency keys in a table: a key is claimed in the statement that sends."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import Any

import asyncpg

from ...core.exceptions import ChannelLayerError, NotSupported, PublishRefused
from . import statements as sql
from .connection import Connection
from .payloads import wake_channel
from .queues import Message, Queues
from .tables import Tables

_SWEEP_INTERVAL = 60.0
_VANISHED = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)


def digest(key: str) -> bytes:
    """Return what stands in the table for a key, which may have any length."""
    return blake2b(key.encode(), digest_size=16).digest()


class IdempotencyKeys:
    """The table of one session, created when the first key is used."""

    def __init__(self, connection: Connection, queues: Queues) -> None:
        self._connection = connection
        self._queues = queues
        self._schema = ""
        """Where the table is; empty while that is not known."""

    async def publish(
        self, topic: str, channels: list[str], payloads: list[str], key: str, seconds: float, *, retry: bool = True
    ) -> None:
        """Notify, unless the topic has had the key."""
        statement = sql.in_schema(sql.PUBLISH_ONCE, await self.require_table())
        try:
            await self._connection.fetch(statement, channels, payloads, topic.encode(), digest(key), seconds)
        except _VANISHED as error:
            self._schema = ""
            if not retry:
                raise PublishRefused(f"{self._connection.address}: {error}") from error
            await self.publish(topic, channels, payloads, key, seconds, retry=False)
        except asyncpg.PostgresError as error:
            raise PublishRefused(f"{self._connection.address}: {error}") from error

    async def put(self, message: Message, key: str, seconds: float, *, retry: bool = True) -> None:
        """Append to a queue, unless the queue has had the key. Raises `QueueFull`."""
        await self.require_table()
        contents = sql.text_array([message.message]), sql.text_array([message.expiry])
        arguments = message.queue, *contents, message.capacity, wake_channel(message.queue), digest(key), seconds
        try:
            await self._queues.fetch(sql.PUT_ONCE, *arguments)
        except ChannelLayerError as error:
            if isinstance(error.__cause__, asyncpg.DivisionByZeroError):
                raise message.queue_full() from None
            if not retry or not isinstance(error.__cause__, _VANISHED):
                raise
            self._schema = ""
            await self.put(message, key, seconds, retry=False)

    async def purge(self, prefix: bytes) -> None:
        """Forget the keys of topics and queues whose names begin with a prefix."""
        schema, exists = await self._find()
        if exists:
            await self._run(sql.in_schema(sql.PURGE_KEYS, schema), prefix)

    async def maintain(self) -> None:
        """Delete keys whose time is over, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL)
            if self._schema:
                await self._run(sql.in_schema(sql.SWEEP_KEYS, self._schema))

    async def require_table(self) -> str:
        """Return the schema of the table, which is created there if it is missing."""
        if not self._schema:
            schema, exists = await self._find()
            if not exists:
                await self._create(schema)
                schema, _ = await self._find()  # another role may have been quicker
            self._schema = schema
        return self._schema

    async def _find(self) -> tuple[str, bool]:
        tables = await self._tables()
        ((exists, foreign_owner),) = await self._run(sql.FIND_KEYS, tables.schema)
        if foreign_owner is not None:
            raise NotSupported(
                f"{self._connection.address}: django_anyio_channels_sent in the schema {tables.schema} belongs to "
                f"{foreign_owner}, which could run code with the rights of {tables.user}. Have it belong to "
                f"{tables.user}, or to the owner of the schema or of the database, by ALTER TABLE ... OWNER TO"
            )
        return tables.schema, exists

    async def _tables(self) -> Tables:
        tables = Tables(*(await self._run(sql.FIND_TABLES))[0])
        tables.require_usable(self._connection.address)
        return tables

    async def _create(self, schema: str) -> None:
        user = (await self._tables()).user
        try:
            await self._connection.execute(sql.in_schema(sql.KEYS_SCHEMA, schema))
        except asyncpg.PostgresError as error:
            definition = sql.in_schema(sql.KEYS_SCHEMA + sql.KEYS_GRANTS, schema).replace("{user}", user)
            raise NotSupported(
                f"{self._connection.address}: {error}. Idempotency keys need a table, which {user} could not create. "
                f"Have the owner of the schema or of the database run this:\n{definition}"
            ) from error

    async def _run(self, statement: str, *parameters: object) -> list[Any]:
        try:
            return await self._connection.fetch(statement, *parameters)
        except asyncpg.PostgresError as error:
            raise ChannelLayerError(f"{self._connection.address}: {error}") from error
