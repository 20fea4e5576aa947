"""WebSockets that the layer closes, by a message that every consumer with a WebSocket handles."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable
from time import monotonic
from typing import Any

from channels.consumer import SyncConsumer
from django.utils.crypto import salted_hmac

from ...core.events import Event
from ...core.serializers import MessagePackSerializer
from ...hub.overflow import Close
from ...hub.subscriber import Subscriber

logger = logging.getLogger("django_anyio_channels")

CLOSE = "anyio_channels.close"
"""The type of the message."""

TOO_SLOW = 4008
"""The code with which a WebSocket is closed whose consumer has a full mailbox, by the setting ``overflow``.

Not 1008, as for other codes below 3000: Daphne accepts none but 1000 from an application.
"""

_DAPHNE_CODES = range(3000, 5000)
_SALT = "django_anyio_channels.closing"


def close_message(code: int, unless: list[str] | None = None) -> dict[str, Any]:
    """Return the message that closes a WebSocket, unless the consumer's user has one of these `session_hash`.

    Raises `TypeError` or `ValueError` for a code that a server may refuse.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"The code of a WebSocket's end is a whole number, not {type(code).__name__}")
    if not _is_code(code):
        raise ValueError(
            f"The code of a WebSocket's end is {code}; it must be 1000, or from 3000 to 4999: servers take "
            f"no others from applications"
        )
    return {"type": CLOSE, "code": code, **({} if unless is None else {"unless": unless})}


def session_hash(session_auth_hash: str) -> str:
    """Return what stands for ``get_session_auth_hash()`` of a user, who has another one with each password."""
    return salted_hmac(_SALT, session_auth_hash, algorithm="sha256").hexdigest()


class CloseHandler:
    """Handles `CLOSE` for a consumer, synchronous or not; a consumer without a WebSocket ignores it."""

    __slots__ = ("_consumer",)

    def __init__(self, consumer: Any) -> None:
        self._consumer = weakref.ref(consumer)  # which this may be an attribute of

    def __call__(self, message: Any) -> Awaitable[None] | None:
        consumer: Any = self._consumer()
        concerns = _concerns(consumer, message)
        if isinstance(consumer, SyncConsumer):
            if concerns:
                close_sync(consumer, message["code"])
            return None
        return close(consumer, message["code"]) if concerns else _nothing()


def _concerns(consumer: Any, message: Any) -> bool:
    if not hasattr(consumer, "websocket_disconnect"):
        logger.debug("%s has no WebSocket to close", type(consumer).__name__)
        return False
    if not _is_code(message.get("code")):
        logger.error("Ignored a message to %s that closes with an invalid code", type(consumer).__name__)
        return False
    unless: Any = message.get("unless")
    user: Any = consumer.scope.get("user")
    if not isinstance(unless, list) or not hasattr(user, "get_session_auth_hash"):
        return True
    return session_hash(user.get_session_auth_hash()) not in unless


def _is_code(code: object) -> bool:
    # Daphne accepts no others from an application.
    return type(code) is int and (code == 1000 or code in _DAPHNE_CODES)


async def close(consumer: Any, code: int) -> None:
    """Close the WebSocket of an asynchronous consumer, and end it: it handles nothing more. Raises `StopConsumer`."""
    try:
        await consumer.close(code=code)
    finally:
        await consumer.websocket_disconnect({"type": "websocket.disconnect", "code": code})


def close_sync(consumer: Any, code: int) -> None:
    """`close` for a synchronous consumer."""
    try:
        consumer.close(code=code)
    finally:
        consumer.websocket_disconnect({"type": "websocket.disconnect", "code": code})


async def _nothing() -> None:
    """What an asynchronous handler returns that does nothing."""


def _close_slow(mailbox: Subscriber) -> None:
    mailbox.put_in_front([(monotonic(), Event(mailbox.name, _TOO_SLOW))])


CLOSE_SLOW = Close(_close_slow, Subscriber)
"""What the setting ``overflow`` calls "close": the close comes before what waits."""
_TOO_SLOW = MessagePackSerializer().encode(close_message(TOO_SLOW))
