"""Observers of all that a layer sends: the spans of telemetry, and what tests record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from ..transactions import TransactionDispatcher

Message = dict[str, Any]


class Sending(NamedTuple):
    """A message that a layer sends."""

    kind: Literal["group", "channel"]
    names: Any
    """Of one or more groups, or of the channel."""
    message: Message
    is_for_handlers: bool = True
    """Not a ready frame, nor what closes WebSockets."""
    transaction: TransactionDispatcher | None = None
    """What it is a part of."""


Observer = Callable[[Sending], AbstractContextManager[Message]]
"""Called with each message, which is sent in the block: what the context manager returns is sent in its place.

When the block ends without an error, the broker has accepted it.
"""


@contextmanager
def observing(observers: tuple[Observer, ...], sending: Sending) -> Iterator[tuple[Any, Message]]:
    """Return the names and the message for what sends in the block."""
    if isinstance(sending.names, Iterator):
        sending = sending._replace(names=list(sending.names))
    with ExitStack() as stack:
        for observer in observers:
            sending = sending._replace(message=stack.enter_context(observer(sending)))
        yield sending.names, sending.message
