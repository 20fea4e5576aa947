"""The methods for synchronous code: those that end in ``_sync``, and messages that are part of a transaction."""

from __future__ import annotations

from typing import Any

from .base import REFUSALS, translate
from .presence.methods import PresenceMethods, joining_of
from .sending.broadcasts import Broadcasts
from .sending.sends import Channels, Groups, Results
from .sending.users import UserMethods
from .transactions import TransactionalLayer, TransactionDispatcher


class SynchronousMethods(UserMethods, Broadcasts, PresenceMethods):
    """What `AnyioChannelLayer` offers synchronous code. In an event loop they raise ``SynchronousOnlyOperation``."""

    def send_sync(self, channel: str, message: dict[str, Any], *, idempotency_key: str | None = None) -> None:
        """`send` for synchronous code."""
        self._send_to_channel_sync(channel, message, idempotency_key)

    def group_send_sync(
        self,
        group: Groups,
        message: dict[str, Any],
        *,
        exclude: Channels = None,
        idempotency_key: str | None = None,
    ) -> Results:
        """`group_send` for synchronous code."""
        if exclude or idempotency_key is not None or not isinstance(group, str) or self._observers:
            return self._send_to_groups_sync(group, message, exclude, idempotency_key)
        topic, payload = self.address_group(group, message)
        try:
            self._dispatcher.publish_sync(topic, payload)
        except REFUSALS as error:
            raise translate(error) from error
        return None

    def in_transaction(self, using: str | None = None) -> TransactionalLayer:
        """Return a layer whose ``send`` and ``group_send`` are a part of the open database transaction.

        ``using`` is the alias of DATABASES, by default the layer's own. Raises `NotSupported` unless the layer is on
        PostgreSQL, and listens in that database.
        """
        if using not in self._in_transaction:
            transaction = TransactionDispatcher(self._dispatcher, self._settings, using)
            self._in_transaction[using] = TransactionalLayer(
                lambda channel, message: self._send_to_channel_sync(channel, message, None, transaction),
                lambda group, message, exclude, marks=None: self._send_to_groups_sync(
                    group, message, exclude, None, marks, transaction
                ),
                self.frame,
            )
        return self._in_transaction[using]

    def group_add_sync(
        self,
        group: str,
        channel: str,
        *,
        member: str | None = None,
        meta: dict[str, Any] | None = None,
        watch: bool = False,
    ) -> None:
        """`group_add` for synchronous code."""
        self._check_names(group, channel)
        joining = joining_of(self._settings, member, meta, watch)
        self._dispatcher.call_sync(lambda node: node.group_add(group, channel, joining))

    def group_discard_sync(self, group: str, channel: str) -> None:
        """`group_discard` for synchronous code."""
        self._check_names(group, channel)
        self._dispatcher.call_sync(lambda node: node.group_discard(group, channel))
