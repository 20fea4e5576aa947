"""Statements on the tables of one set, which are found, checked and created when they are first needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from ...core.exceptions import ChannelLayerError, ListenerClosed, NotSupported
from ...core.stats import RateLimitedLogger
from .connection import Connection
from .statements import FIND_TABLES, in_schema
from .tables import Tables, TableSet

VANISHED = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)
"""What was there has been dropped."""


class TableAccess:
    """The tables of one set, as one connection sees them."""

    def __init__(self, connection: Connection, wanted: TableSet) -> None:
        self._connection = connection
        self._wanted = wanted
        self.found: Tables | None = None
        """None until they were needed."""

    async def run(
        self,
        statement: str,
        *parameters: object,
        refused: type[ChannelLayerError] = ChannelLayerError,
        retry: bool = True,
    ) -> list[Any]:
        """Run a statement on the tables, and create them where they are missing.

        Raises `NotSupported` where a right is missing, and ``refused`` for what the server refuses.
        """
        tables = await self.require()
        address = self._connection.address
        try:
            return await self._connection.fetch(in_schema(statement, tables.schema), *parameters)
        except asyncpg.InsufficientPrivilegeError as error:
            raise NotSupported(
                f"{address}: {error}. {self._wanted.purpose} need these rights on their tables:\n{tables.grants}"
            ) from error
        except asyncpg.PostgresError as error:
            if retry and isinstance(error, VANISHED):
                self.found = None
                return await self.run(statement, *parameters, refused=refused, retry=False)
            raise refused(f"{address}: {error}") from error

    async def run_if_any(self, statement: str, *parameters: object) -> list[Any]:
        """`run`, but return nothing where the tables are missing."""
        if self.found is None:
            tables = await self._look()
            if not tables.are_complete:
                return []
            tables.require_usable(self._connection.address)
            self.found = tables
        return await self.run(statement, *parameters)

    async def require(self) -> Tables:
        """Return where the tables are; create them where they are missing."""
        if self.found is None:
            tables = await self._find()
            if not tables.are_complete:
                await self._create(tables)
                tables = await self._find()  # another role may have been quicker
            self.found = tables
        return self.found

    async def exist(self) -> bool:
        """Return whether the tables are there and may be used; do not create them."""
        if self.found is None:
            tables = await self._look()
            if tables.are_complete and tables.foreign_owner is None:
                self.found = tables
        return self.found is not None

    async def _look(self) -> Tables:
        try:
            (row,) = await self._connection.fetch(FIND_TABLES, *self._wanted.names)
        except asyncpg.PostgresError as error:
            address, purpose = self._connection.address, self._wanted.purpose.lower()
            raise ChannelLayerError(f"{address}: the tables of {purpose} cannot be looked for: {error}") from error
        return self._wanted.find(row)

    async def _find(self) -> Tables:
        tables = await self._look()
        tables.require_usable(self._connection.address)
        return tables

    async def _create(self, tables: Tables) -> None:
        address, purpose = self._connection.address, self._wanted.purpose
        try:
            await self._connection.execute(in_schema(self._wanted.schema, tables.schema))
        except asyncpg.InsufficientPrivilegeError as error:
            raise NotSupported(
                f"{address}: {error}. {purpose} need tables and functions, which {tables.user} may not create. Have "
                f"the owner of the schema or of the database run this:\n{tables.definition}"
            ) from error
        except asyncpg.PostgresError as error:
            raise ChannelLayerError(f"{address}: the tables of {purpose.lower()} cannot be created: {error}") from error


async def maintain(seconds: float, work: Callable[[], Awaitable[object]], failure: str) -> None:
    """Do some work every so many seconds, over errors of the database, until the session is over."""
    log = RateLimitedLogger()
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except ListenerClosed:
            return
        except ChannelLayerError as error:
            log.write(logging.ERROR, "%s: %s", failure, error)
