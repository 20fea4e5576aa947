"""What to change about a PostgreSQL server: rights, version, pooler, connections, notifications, clock, TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import asyncpg

from ...core.diagnosis import clock_finding, tls_finding
from ...core.exceptions import NotSupported
from ...core.inspection import Finding
from .connection import Connection
from .session import Session
from .statements import FIND_TABLES, SERVER_SETUP
from .tables import TableSet

_OLDEST = 140000
_SHORTEST_IDLE_MS = 60_000


async def diagnose(session: Session, needed: TableSet) -> list[Finding]:
    """See `SupportsDiagnosis`; the layer needs these tables."""
    listening, publishing = session.connections
    found: list[Finding] = []
    for connection in (listening, publishing):
        if not connection.is_behind_pooler:
            found += await _of_connection(connection)
    found += _poolers(listening, publishing)
    found.append(await _tables(publishing, needed))
    return list(dict.fromkeys(found))


async def _of_connection(connection: Connection) -> list[Finding]:
    address, before = str(connection.address), time.time()
    try:
        ((encrypted, client, *setup),) = await connection.fetch(SERVER_SETUP)
    except asyncpg.PostgresError as error:
        return [Finding("unknown", f"{address} does not say how it is set up: {error}")]
    cure = "Add ?sslmode=verify-full&sslrootcert=... to the URL, and turn on ssl in postgresql.conf"
    return [
        *_of_server(address, setup, before, time.time()),
        tls_finding(address, client, encrypted=encrypted, cure=cure),
    ]


def _of_server(address: str, setup: Any, before: float, after: float) -> Iterator[Finding]:
    version, number, clock, used, limit, notifications, autovacuum, idle_ms, role, is_superuser = setup
    text = f"{address} is PostgreSQL {version}"
    if number < _OLDEST:
        yield Finding("error", f"{text}, which is too old", f"Use PostgreSQL {_OLDEST // 10_000} or newer")
    else:
        yield Finding("ok", text)
    yield clock_finding(address, clock, before, after)
    if used > 0.8 * limit:
        text = f"{address} has {used} of {limit} connections; each node takes two"
        yield Finding("warning", text, "Raise max_connections, or put PgBouncer before it and give listen_url")
    if notifications > 0.5:
        text = f"The queue of notifications at {address} is {notifications:.0%} full; publishing fails when it is"
        cure = "End the session that is in a transaction for long and has run LISTEN; pg_stat_activity shows it"
        yield Finding("error", text, cure)
    if not autovacuum:
        text = f"{address} has no autovacuum, so the table of normal channels grows"
        yield Finding("warning", text, "Turn on autovacuum in postgresql.conf")
    if 0 < idle_ms < _SHORTEST_IDLE_MS:
        text = f"{address} ends sessions that are idle for {idle_ms / 1000:g} s"
        yield Finding("warning", text, f"Run `ALTER ROLE {role} SET idle_session_timeout = 0`")
    if is_superuser:
        text = f"The role {role} at {address} is a superuser, which the layer does not need"
        yield Finding("warning", text, "Connect as a role of its own")


def _poolers(listening: Connection, publishing: Connection) -> Iterator[Finding]:
    if listening.is_behind_pooler:
        text = f"{listening.address} is a pooler, and the connection that listens passes through it"
        cure = (
            "Give the server's own address as listen_url: a pooler in session mode works, and holds a connection for it"
        )
        yield Finding("warning", text, cure)
    elif publishing.is_behind_pooler:
        yield Finding("ok", f"{publishing.address} is a pooler, and the connection that listens goes past it")
    else:
        yield Finding("ok", f"No pooler stands before {publishing.address}")


async def _tables(connection: Connection, needed: TableSet) -> Finding:
    tables = needed.find((await connection.fetch(FIND_TABLES, *needed.names))[0])
    purpose = needed.purpose.lower()
    try:
        tables.require_usable(connection.address)
    except NotSupported as error:
        return Finding("error", f"{connection.address} has no usable tables for {purpose}", str(error))
    if not tables.are_complete:
        text = f"{connection.address} has no tables for {purpose} yet; the first message makes them"
        return Finding("ok", text)
    if tables.bindings_are_readable is False:
        text = f"The role {tables.user} at {connection.address} lacks rights on the tables of {purpose}"
        return Finding("error", text, tables.grants)
    return Finding("ok", f"{connection.address} has the tables for {purpose} in the schema {tables.schema}")
