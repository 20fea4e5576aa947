"""Records what a layer sends, for `AnyioChannelLayer.captured`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

from django.db import connections

from .observers import Message, Sending

Sent = tuple[Literal["group", "channel"], str, Message]
"""What was sent to: ``("group", name, message)`` or ``("channel", name, message)``."""


class Recording:
    """Observes what one layer sends."""

    def __init__(self) -> None:
        self.lists: list[list[Sent]] = []
        """What is being appended to."""
        self._transactions: dict[Any, _Transaction] = {}

    @contextmanager
    def observe(self, sending: Sending) -> Iterator[Message]:
        """See `Observer`."""
        copy = deepcopy(sending.message)
        yield sending.message
        for name in [sending.names] if isinstance(sending.names, str) else sending.names:
            self._add((sending.kind, name, copy), sending)

    def stop(self) -> None:
        """Follow transactions no longer."""
        for transaction in self._transactions.values():
            transaction.forget()

    def _add(self, sent: Sent, sending: Sending) -> None:
        for each in self.lists:
            each.append(sent)
        if sending.transaction is not None:
            connection: Any = connections[sending.transaction.using]
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
