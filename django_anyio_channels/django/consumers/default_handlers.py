"""The handlers of the layer's own messages, for consumers that have none of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..messages.closing import CLOSE, CloseHandler
from ..messages.ready_frames import FRAME, FrameHandler, is_websocket

_HANDLERS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {CLOSE: CloseHandler, FRAME: FrameHandler}


def default_handler(consumer: Any, message: Any) -> Callable[[Any], Any] | None:
    """Return the handler of a message that the consumer has none for."""
    make = _HANDLERS.get(message["type"])
    return None if make is None or (make is FrameHandler and not is_websocket(consumer)) else make(consumer)


def add_handlers(consumer: Any) -> None:
    """Give a consumer whose ``dispatch`` is its own the handlers that it does not have."""
    for kind in _HANDLERS:
        name = kind.replace(".", "_")
        if not hasattr(consumer, name) and (handler := default_handler(consumer, {"type": kind})) is not None:
            setattr(consumer, name, handler)
