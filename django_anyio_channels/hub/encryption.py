"""Encryption between a layer and the mailboxes: each event is decrypted once, however many readers it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..core.encryption import Encryption, Kind
from ..core.events import Event
from ..core.exceptions import DecodeError
from ..core.layer import BaseChannelLayer, Reencryption
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
        self.reencrypt: Reencryption = encryption.reencrypt
        self._stats = stats

    def for_group(self, group: str, payload: bytes, lifetime: float | None) -> bytes:
        """Encrypt a payload for a group, by default for as long as its messages may be on their way."""
        return self._encryption.encrypt(payload, "group", group, lifetime=lifetime or self._lifetime)

    def for_queue(self, queue: str, payload: bytes, expiry: float) -> bytes:
        """Encrypt a payload for a queue."""
        return self._encryption.encrypt(payload, "queue", queue, lifetime=expiry)

    def decrypt(self, event: Event[bytes], kind: Kind = "group", late: float = 0.0) -> Event[bytes] | None:
        """Decrypt the message of an event; an empty one is the layer's own. Return None for an event to drop."""
        if not event.message:
            return event
        try:
            return replace(event, message=self._encryption.decrypt(event.message, kind, event.group, late=late))
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
