"""Records what a layer sends, for `AnyioChannelLayer.captured`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Literal

from django.db import connections

from ..telemetry.context import CONTEXT_KEY
from ..transactions import TransactionDispatcher
from .sends import is_plain

Sent = tuple[Literal["group", "channel"], str, dict[str, Any]]
"""What was sent to: ``("group", name, message)`` or ``("channel", name, message)``."""

_Message = dict[str, Any]


Add = Callable[..., None]


def _kept(names: Any) -> Any:
    """Return what can be iterated over more than once."""
    return list(names) if isinstance(names, Iterator) else names


def _send(send: Any, add: Add) -> Any:
    async def recorded(channel: str, message: _Message, *, idempotency_key: str | None = None) -> None:
        copy = deepcopy(message)
        await send(channel, message, idempotency_key=idempotency_key)
        if idempotency_key is None:
            add("channel", channel, copy)

    return recorded


def _group_send(send: Any, add: Add) -> Any:
    async def recorded(group: Any, message: _Message, **options: Any) -> Any:
        group, copy = _kept(group), deepcopy(message)
        result = await send(group, message, **options)
        if is_plain(group, **options):
            add("group", group, copy)
        return result

    return recorded


def _group_send_sync(send: Any, add: Add) -> Any:
    def recorded(group: Any, message: _Message, **options: Any) -> Any:
        group, copy = _kept(group), deepcopy(message)
        result = send(group, message, **options)
        if is_plain(group, **options):
            add("group", group, copy)
        return result

    return recorded


def _later(kind: str) -> Callable[[Any, Add], Any]:
    """Return what records an asynchronous method with a name and a message as its first arguments."""

    def record(send: Any, add: Add) -> Any:
        async def recorded(name: Any, message: _Message, *others: Any) -> Any:
            name, copy = _kept(name), deepcopy(message)
            result = await send(name, message, *others)
            add(kind, name, copy)
            return result

        return recorded

    return record


def _now(kind: str) -> Callable[[Any, Add], Any]:
    """Do what `_later` does for a synchronous method."""

    def record(send: Any, add: Add) -> Any:
        def recorded(name: Any, message: _Message, *others: Any) -> Any:
            name, copy = _kept(name), deepcopy(message)
            result = send(name, message, *others)
            add(kind, name, copy)
            return result

        return recorded

    return record


def _by_dispatcher(kind: str) -> Callable[[Any, Add], Any]:
    """Do what `_now` does for a method whose first argument is the dispatcher, which may be a transaction's."""

    def record(send: Any, add: Add) -> Any:
        def recorded(dispatcher: Any, name: Any, message: _Message, *others: Any) -> None:
            copy = deepcopy(message)
            send(dispatcher, name, message, *others)
            add(kind, name, copy, dispatcher)

        return recorded

    return record


_METHODS: dict[str, Callable[[Any, Add], Any]] = {
    "send": _send,
    "_send_once": _later("channel"),
    "_send_once_sync": _now("channel"),
    "_send_by": _by_dispatcher("channel"),
    "group_send": _group_send,
    "group_send_sync": _group_send_sync,
    "_send_to_groups": _later("group"),
    "_send_to_groups_sync": _now("group"),
    "_group_send_in_transaction": _by_dispatcher("group"),
}
"""The methods by which everything is sent, each message by one of them, and what records it."""


class Recording:
    """Puts itself in front of the methods of a layer by which everything is sent."""

    def __init__(self, layer: Any) -> None:
        self.lists: list[list[Sent]] = []
        """What is being appended to."""
        self._layer = layer
        self._replaced: dict[str, Any] = {}
        """The methods that were the layer's own attributes: telemetry's."""
        self._transactions: dict[Any, _Transaction] = {}

    def start(self) -> None:
        """Begin to record."""
        self._replaced = {name: method for name, method in vars(self._layer).items() if name in _METHODS}
        for name, records in _METHODS.items():
            vars(self._layer)[name] = records(getattr(self._layer, name), self.add)

    def stop(self) -> None:
        """Give the layer its own methods back."""
        for name in _METHODS:
            del vars(self._layer)[name]
        vars(self._layer).update(self._replaced)
        for transaction in self._transactions.values():
            transaction.forget()

    def add(self, kind: Literal["group", "channel"], name: Any, message: _Message, dispatcher: Any = None) -> None:
        """Record a message to a channel, or to one or more groups."""
        message.pop(CONTEXT_KEY, None)  # which telemetry has added
        for each in [name] if isinstance(name, str) else name:
            self._add((kind, each, message), dispatcher)

    def _add(self, sent: Sent, dispatcher: Any = None) -> None:
        for each in self.lists:
            each.append(sent)
        if isinstance(dispatcher, TransactionDispatcher):
            connection: Any = connections[dispatcher.using]
            if connection not in self._transactions:
                self._transactions[connection] = _Transaction(connection, self._remove)
            self._transactions[connection].add(sent)

    def _remove(self, undone: list[Sent]) -> None:
        for each in self.lists:
            each[:] = [sent for sent in each if not any(sent is other for other in undone)]


class _Transaction:
    """What was sent in the open transaction of a database connection, of which a rollback removes a part or all."""

    def __init__(self, connection: Any, remove: Callable[[list[Sent]], None]) -> None:
        self._connection = connection
        self._remove = remove
        self._sent: list[tuple[Sent, frozenset[str | None]]] = []
        commit, rollback, savepoint_rollback = connection.commit, connection.rollback, connection.savepoint_rollback

        def recorded_commit() -> None:
            commit()
            self._sent.clear()

        def recorded_rollback() -> None:
            rollback()
            self._undo(lambda savepoints: True)

        def recorded_savepoint_rollback(savepoint: str) -> None:
            savepoint_rollback(savepoint)
            self._undo(lambda savepoints: savepoint in savepoints)

        vars(connection).update(
            commit=recorded_commit, rollback=recorded_rollback, savepoint_rollback=recorded_savepoint_rollback
        )

    def add(self, sent: Sent) -> None:
        self._sent.append((sent, frozenset(self._connection.savepoint_ids)))

    def forget(self) -> None:
        for name in ("commit", "rollback", "savepoint_rollback"):
            del vars(self._connection)[name]

    def _undo(self, is_undone: Callable[[frozenset[str | None]], bool]) -> None:
        self._remove([sent for sent, savepoints in self._sent if is_undone(savepoints)])
        self._sent = [entry for entry in self._sent if not is_undone(entry[1])]
