"""Decryption of events between a layer and the mailboxes: once for each event, however many readers it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.encryption import Encryption, Kind
from ..core.events import Event
from ..core.exceptions import DecodeError
from ..core.stats import DeliveryStats
from .subscriber import release


@dataclass(slots=True)
class Decryption:
    """Decrypts the events of one `Channel`; those that cannot be decrypted are counted, logged and acknowledged."""

    encryption: Encryption
    stats: DeliveryStats

    def decrypt(self, event: Event[bytes], kind: Kind = "group", late: float = 0.0) -> Event[bytes] | None:
        """`Encryption.decrypt_event`; None for an event to drop."""
        try:
            return self.encryption.decrypt_event(event, kind, late=late)
        except DecodeError as error:
            self.stats.count_undecodable(event.group, error)
            release(event)
            return None

    def before(self, deliver: Callable[[Event[bytes]], None]) -> Callable[[Event[bytes]], None]:
        """Return an event handler that decrypts events for ``deliver``."""

        def decrypt_and_deliver(event: Event[bytes]) -> None:
            decrypted = self.decrypt(event)
            if decrypted is not None:
                deliver(decrypted)

        return decrypt_and_deliver
