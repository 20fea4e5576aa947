"""What the queues in the tables hold."""

from __future__ import annotations

import asyncpg

from ...core.exceptions import ChannelLayerError
from ...core.inspection import QueueState
from .session import Session
from .statements import FIND_TABLES, INSPECT_QUEUES, in_schema
from .tables import Tables


async def inspect_queues(session: Session, prefix: str, limit: int) -> list[QueueState]:
    """See `SupportsInspection`. Which nodes ``LISTEN`` for a queue, PostgreSQL does not say."""
    _, connection = session.connections
    try:
        tables = Tables(*(await connection.fetch(FIND_TABLES))[0])
        if not tables.are_complete:
            return []
        tables.require_usable(connection.address)
        rows = await connection.fetch(in_schema(INSPECT_QUEUES, tables.schema), prefix.encode(), limit)
    except asyncpg.PostgresError as error:
        raise ChannelLayerError(f"{connection.address}: the queues cannot be looked at: {error}") from error
    return [QueueState(queue.decode(errors="replace"), count, left) for queue, count, left in rows]
