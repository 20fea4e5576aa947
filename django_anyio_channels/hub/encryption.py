"""Encryption between a layer and the mailboxes: each event is decrypted once, however many readers it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..core.encryption import Encryption, Kind
from ..core.events import Event
from ..core.exceptions import DecodeError
from ..core.layer import BaseChannelLayer
from ..core.stats import DeliveryStats
from .subscriber import release


class ChannelEncryption:
    """Encrypts what one `Channel` publishes and puts, and decrypts what it receives.

    What cannot be decrypted is counted, logged and acknowledged.
    """

    def __init__(
        self, encryption: Encryption, layer: BaseChannelLayer, expiry: float | None, stats: DeliveryStats
    ) -> None:
        self._lifetime = max(math.inf if expiry is None else expiry, layer.retention)
        self._encryption = encryption
        self._stats = stats
        self.sent: float = 0.0
        """When the event was sent that was decrypted last, in seconds since the epoch by the sender's clock."""

    def for_group(self, group: str, payload: bytes, lifetime: float | None) -> bytes:
        """Encrypt a payload for a group, by default for as long as its messages may be on their way."""
        return self._encryption.encrypt(payload, "group", group, lifetime=lifetime or self._lifetime)

    def from_group(self, message: bytes, group: str) -> bytes:
        """Decrypt what came from a group. Raises `DecodeError`."""
        return self._encryption.decrypt(message, "group", group)

    def for_queue(self, queue: str, payload: bytes, expiry: float) -> bytes:
        """Encrypt a payload for a queue."""
        return self._encryption.encrypt(payload, "queue", queue, lifetime=expiry)

    def for_record(self, place: str, content: bytes, ttl: float) -> bytes:
        """Encrypt a record of presence."""
        return self._encryption.encrypt(content, "presence", place, lifetime=ttl)

    def decrypt(self, event: Event[bytes], kind: Kind = "group", late: float = 0.0) -> Event[bytes] | None:
        """Decrypt the message of an event; an empty one is the layer's own. Return None for an event to drop."""
        if not event.message:
            return event
        try:
            message, self.sent = self._encryption.decrypt_with_time(event.message, kind, event.group, late=late)
            return replace(event, message=message)
        except DecodeError as error:
            self._stats.count_undecodable(event.group, error)
            release(event)
            return None

    def decrypt_before(self, deliver: Callable[[Event[bytes]], None]) -> Callable[[Event[bytes]], None]:
        """Return an event handler that decrypts events for ``deliver``."""

        def decrypt_and_deliver(event: Event[bytes]) -> None:
            if (decrypted := self.decrypt(event)) is not None:
                deliver(decrypted)

        return decrypt_and_deliver
