"""Records what a layer sends, for `AnyioChannelLayer.captured`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

from django.db import connections

from .transactions import TransactionDispatcher

Sent = tuple[Literal["group", "channel"], str, dict[str, Any]]
"""What was sent to: ``("group", name, message)`` or ``("channel", name, message)``."""

_Message = dict[str, Any]


class Recording:
    """Puts itself in front of the methods of a layer by which everything is sent."""

    def __init__(self, layer: Any) -> None:
        self.lists: list[list[Sent]] = []
        """What is being appended to."""
        self._layer = layer
        self._transactions: dict[Any, _Transaction] = {}

    def start(self) -> None:
        """Begin to record."""
        layer = self._layer
        send, group_send, send_by, group_send_by = layer.send, layer.group_send, layer._send_by, layer._group_send_by

        async def recorded_send(channel: str, message: _Message) -> None:
            copy = deepcopy(message)
            await send(channel, message)
            self._add(("channel", channel, copy))

        async def recorded_group_send(group: str, message: _Message) -> None:
            copy = deepcopy(message)
            await group_send(group, message)
            self._add(("group", group, copy))

        def recorded_send_by(dispatcher: Any, channel: str, message: _Message) -> None:
            copy = deepcopy(message)
            send_by(dispatcher, channel, message)
            self._add(("channel", channel, copy), dispatcher)

        def recorded_group_send_by(dispatcher: Any, group: str, message: _Message) -> None:
            copy = deepcopy(message)
            group_send_by(dispatcher, group, message)
            self._add(("group", group, copy), dispatcher)

        vars(layer).update(
            send=recorded_send,
            group_send=recorded_group_send,
            _send_by=recorded_send_by,
            _group_send_by=recorded_group_send_by,
        )

    def stop(self) -> None:
        """Give the layer its own methods back."""
        for name in ("send", "group_send", "_send_by", "_group_send_by"):
            del vars(self._layer)[name]
        for transaction in self._transactions.values():
            transaction.forget()

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
