"""Mixins for consumers whose browsers come back: exactly what was missed, then what is live, or word that it can't be.

They are for the consumers of those who use Channels, which are made by inheritance; nothing in this package is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.exceptions import InvalidPosition, MissingDriver, NotSupported, PositionLost

try:
    from asgiref.sync import async_to_sync
except ModuleNotFoundError as error:
    raise MissingDriver(
        "The mixins for consumers need Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from .messages.closing import close, close_sync

TRY_AGAIN_LATER = 4013
"""The code with which a WebSocket is closed so that its browser comes back with its last position.

Not 1013, which means the same: Daphne accepts none but 1000 and 3000 to 4999 from an application.
"""


@dataclass(frozen=True)
class Resumption:
    """How a consumer joined a group."""

    position: str | None
    """What the browser keeps as its last position until a message brings one; None if there is none yet."""

    complete: bool
    """Whether everything after the browser's position follows; if not, some messages are no longer available."""

    has_history: bool
    """Whether the layer keeps a history; if not, a browser that reconnects later misses what is sent meanwhile."""


class AsyncResumingMixin:
    """For asynchronous consumers, ``class ChatConsumer(AsyncResumingMixin, AsyncWebsocketConsumer)``."""

    async def resume_group(self, group: str, since: str | None = None, *, last: int = 0) -> Resumption:
        """Join a group at the position at which a browser left it, or with the ``last`` messages of the group.

        ``since`` is the position of the last message that the browser received, exactly as the browser sent it.
        Messages from the history go through the consumer's handlers like any other, once this method has returned.
        Send ``position_of(message)`` of each to the browser. If the messages after ``since`` are no longer available,
        the ``last`` messages follow.
        """
        return await resume(self, group, since, last)

    async def group_missed(self: Any, message: dict[str, Any]) -> None:
        """Close the WebSocket, because messages are missing here: the browser reconnects, and asks for them."""
        _require_websocket(self)
        await close(self, TRY_AGAIN_LATER)


class ResumingMixin:
    """The same for synchronous consumers, ``class ChatConsumer(ResumingMixin, WebsocketConsumer)``."""

    def resume_group(self, group: str, since: str | None = None, *, last: int = 0) -> Resumption:
        """`AsyncResumingMixin.resume_group`."""
        return async_to_sync(resume)(self, group, since, last)

    def group_missed(self: Any, message: dict[str, Any]) -> None:
        """`AsyncResumingMixin.group_missed`."""
        _require_websocket(self)
        close_sync(self, TRY_AGAIN_LATER)


async def resume(consumer: Any, group: str, since: str | None, last: int) -> Resumption:
    """Do what `AsyncResumingMixin.resume_group` does, for anything with a ``channel_layer`` and a ``channel_name``."""
    layer, channel = consumer.channel_layer, consumer.channel_name
    group_resume = getattr(layer, "group_resume", None)
    if group_resume is None:  # another package's layer, as in many projects' tests
        return await _join(layer, group, channel, since)
    try:
        try:
            return Resumption(await group_resume(group, channel, since=since, last=last), True, True)
        except (PositionLost, InvalidPosition):
            return Resumption(await group_resume(group, channel, last=last), False, True)
    except NotSupported:
        return await _join(layer, group, channel, since)


async def _join(layer: Any, group: str, channel: str, since: str | None) -> Resumption:
    await layer.group_add(group, channel)
    return Resumption(None, since is None, False)


def _require_websocket(consumer: Any) -> None:
    if not hasattr(consumer, "websocket_disconnect"):
        raise TypeError(
            f"{type(consumer).__name__} has no WebSocket to close when messages are missing; "
            f"define group_missed() in it"
        )
