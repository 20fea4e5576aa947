"""Encryption for the ways to a broker that do not lead through a `Channel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.capabilities import QueryGenerator
from ...core.encryption import Encryption
from ...core.events import PublishResult

_LONGEST_TRANSACTION = 86400.0
"""Seconds until a transaction commits, and its messages are on their way."""


@dataclass(frozen=True)
class EncryptedPublisher:
    """Encrypts what it hands to a layer that is a `SupportsBlockingPublish` or a `SupportsTransactions`."""

    layer: Any
    encryption: Encryption
    lifetime: float
    """Seconds for which a message to a group is good."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        return self.layer.publish_blocking(group, self._for_group(message, group))  # type: ignore[no-any-return]

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        token = self._for_queue(message, queue, expiry)
        self.layer.put_blocking(queue, token, capacity=capacity, expiry=expiry)

    def publish_in_transaction(self, group: str, message: bytes, *, encoding: str) -> QueryGenerator[PublishResult]:
        token = self._for_group(message, group, _LONGEST_TRANSACTION)
        return self.layer.publish_in_transaction(group, token, encoding=encoding)  # type: ignore[no-any-return]

    def put_in_transaction(
        self, queue: str, message: bytes, *, capacity: int, expiry: float
    ) -> QueryGenerator[bool | None]:
        token = self._for_queue(message, queue, expiry + _LONGEST_TRANSACTION)
        return self.layer.put_in_transaction(  # type: ignore[no-any-return]
            queue, token, capacity=capacity, expiry=expiry
        )

    def count_subscribers_in_transaction(self, group: str) -> QueryGenerator[int]:
        return self.layer.count_subscribers_in_transaction(group)  # type: ignore[no-any-return]

    def _for_group(self, message: bytes, group: str, extra: float = 0.0) -> bytes:
        return self.encryption.encrypt(message, "group", group, lifetime=self.lifetime + extra)

    def _for_queue(self, message: bytes, queue: str, lifetime: float) -> bytes:
        return self.encryption.encrypt(message, "queue", queue, lifetime=lifetime)
