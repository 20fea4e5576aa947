"""Publish in a transaction of the caller: the statements, for whichever driver has the connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...core.capabilities import QueryGenerator
from ...core.events import BoundQueue, PublishResult
from . import statements as sql
from .history import Limits
from .payloads import channel_name, encode, encode_entry, lock_key, wake_channel
from .tables import HISTORIES, JOBS, QUEUES


def publish(group: str, message: bytes, *, encoding: str) -> QueryGenerator[PublishResult]:
    """Notify, and return the bound queues."""
    payloads = encode(message, server_encoding=encoding)
    ((_, may_be_bound),) = yield sql.PUBLISH, ([channel_name(group)] * len(payloads), payloads)
    if not may_be_bound:
        return PublishResult()
    ((*row,),) = yield sql.FIND_TABLES, QUEUES.names
    tables = QUEUES.find(row)
    if not tables.have_bindings():
        return PublishResult()
    rows = yield sql.in_schema(sql.PUBLISH_TO_BOUND, tables.schema), ([], [], sql.text_array([group.encode()]))
    return PublishResult(bound_queues=bound_queues(rows).get(group, ()))


def keep(
    group: str, message: bytes, limits: Limits, *, has_history: bool, encoding: str
) -> QueryGenerator[PublishResult | None]:
    """Publish and keep at the commit, and return the bound queues, or None if the tables do not exist.

    What goes to a group without a history takes the same way, so that it arrives in the order sent.
    """
    ((*row,),) = yield sql.FIND_TABLES, HISTORIES.names
    tables = HISTORIES.find(row)
    tables.require_usable("The connection of this transaction")
    if not tables.are_complete:
        return None
    topic = sql.bytes_as_text(group.encode())
    if has_history:
        payloads = [encode_entry(message, server_encoding=encoding)]
    else:
        payloads = encode(message, server_encoding=encoding)
    topics = [topic if has_history else None] * len(payloads)
    arguments = topics, [channel_name(group)] * len(payloads), payloads, *limits
    yield sql.in_schema(sql.HISTORY_SEND, tables.schema), arguments
    rows = yield sql.in_schema(sql.PUBLISH_TO_BOUND, tables.schema), ([], [], [topic])
    return PublishResult(bound_queues=bound_queues(rows).get(group, ()))


def bound_queues(rows: Iterable[Any]) -> dict[str, list[BoundQueue]]:
    """Return the rows of `PUBLISH_TO_BOUND` by group."""
    found: dict[str, list[BoundQueue]] = {}
    for topic, queue, capacity, expiry in rows:
        if topic is not None:
            found.setdefault(bytes(topic).decode(), []).append(BoundQueue(bytes(queue).decode(), capacity, expiry))
    return found


def put(
    queue: bytes, message: bytes, *, capacity: int, expiry: float, acknowledged: bool
) -> QueryGenerator[bool | None]:
    """Append to a queue; return whether there was room, or None if the tables do not exist."""
    wanted = JOBS if acknowledged else QUEUES
    ((*row,),) = yield sql.FIND_TABLES, wanted.names
    tables = wanted.find(row)
    tables.require_usable("The connection of this transaction")
    if not tables.are_complete:
        return None
    in_text = sql.text_array([queue, message])
    statement = sql.in_schema(sql.JOB_PUT_IN_TRANSACTION if acknowledged else sql.PUT_IN_TRANSACTION, tables.schema)
    ((count,),) = yield statement, (*in_text, expiry, capacity, wake_channel(queue))
    return bool(count)


def count_subscribers(group: str) -> QueryGenerator[int]:
    """Return how many nodes listen to a topic in this database, of those that count it."""
    ((count,),) = yield sql.COUNT_SUBSCRIBERS, (lock_key(channel_name(group)),)
    return int(count)
