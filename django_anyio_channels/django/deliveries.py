"""A channel's next message as a future: Channels' loop makes a task of anything else that it awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..core.notifier import Notifier


class Delivery(asyncio.Future[Any]):
    """The result is the next message. A waiter of a mailbox's notifier that takes the message when it is notified.

    When it is cancelled it has taken none.
    """

    __slots__ = ("_notifier", "_on_end", "_take")

    def __init__(self, notifier: Notifier, take: Callable[[], Any], on_end: Callable[[], object]) -> None:
        """``take`` returns a message or None; ``on_end`` is called when there is a result, or it is cancelled."""
        super().__init__()
        self._notifier = notifier
        self._take = take
        self._on_end = on_end
        self.set_result(None)

    def set_result(self, result: None, /) -> None:
        """Take a message if there is one, else wait for the next notification."""
        message = self._take()
        if message is None:
            self._notifier.add(self)
        else:
            super().set_result(message)
            self._on_end()

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._notifier.cancel(self)
        self._on_end()
        return True
