"""The methods for synchronous code: those that end in ``_sync``, and messages that are part of a transaction."""

from __future__ import annotations

from typing import Any

from .base import REFUSALS, LayerBase, translate
from .dispatcher import Dispatcher
from .transactions import TransactionalLayer, TransactionDispatcher

_AnyDispatcher = Dispatcher | TransactionDispatcher


class SynchronousMethods(LayerBase):
    """What `AnyioChannelLayer` offers synchronous code. In an event loop they raise ``SynchronousOnlyOperation``."""

    def send_sync(self, channel: str, message: dict[str, Any]) -> None:
        """`send` for synchronous code."""
        self._send_by(self._dispatcher, channel, message)

    def group_send_sync(self, group: str, message: dict[str, Any]) -> None:
        """`group_send` for synchronous code."""
        self._group_send_by(self._dispatcher, group, message)

    def in_transaction(self, using: str | None = None) -> TransactionalLayer:
        """Return a layer whose ``send`` and ``group_send`` are a part of the open database transaction.

        ``using`` is the alias of DATABASES, by default the layer's own. Raises `NotSupported` unless the layer is on
        PostgreSQL, and listens in that database.
        """
        if using not in self._in_transaction:
            dispatcher = TransactionDispatcher(self._dispatcher, self._settings, using)
            self._in_transaction[using] = TransactionalLayer(
                lambda channel, message: self._send_by(dispatcher, channel, message),
                lambda group, message: self._group_send_by(dispatcher, group, message),
            )
        return self._in_transaction[using]

    def group_add_sync(self, group: str, channel: str) -> None:
        """`group_add` for synchronous code."""
        self._check_names(group, channel)
        self._dispatcher.call_sync(lambda node: node.group_add(group, channel))

    def group_discard_sync(self, group: str, channel: str) -> None:
        """`group_discard` for synchronous code."""
        self._check_names(group, channel)
        self._dispatcher.call_sync(lambda node: node.group_discard(group, channel))

    def _send_by(self, dispatcher: _AnyDispatcher, channel: str, message: dict[str, Any]) -> None:
        inbox, payload = self.address(channel, message)
        try:
            if inbox is None:
                dispatcher.put_sync(channel, payload)
            else:
                dispatcher.publish_sync(inbox, payload)
        except REFUSALS as error:
            raise translate(error) from error

    def _group_send_by(self, dispatcher: _AnyDispatcher, group: str, message: dict[str, Any]) -> None:
        topic, payload = self.address_group(group, message)
        try:
            dispatcher.publish_sync(topic, payload)
        except REFUSALS as error:
            raise translate(error) from error
