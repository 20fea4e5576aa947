"""The methods that send ready frames."""

from __future__ import annotations

import json as json_library
from typing import Any

from ..messages.envelope import READY
from ..messages.ready_frames import FRAME
from .sends import Channels, Groups, TargetedSends

_ABSENT: Any = object()
_Bytes = bytes


class Broadcasts(TargetedSends):
    """What `AnyioChannelLayer` sends to WebSockets rather than to consumers."""

    async def broadcast(
        self,
        group: Groups,
        *,
        text: str | None = None,
        bytes: bytes | None = None,
        json: Any = _ABSENT,
        exclude: Channels = None,
    ) -> None:
        """Send a text, bytes, or an object as JSON to the WebSocket of each consumer in a group.

        It is encoded once, here, and each node sends it as it is: no handler is called, and nothing is decoded for each
        consumer. A consumer that has a method ``websocket_broadcast`` is called with it instead, and may filter: the
        message has a ``text`` or ``bytes``. So are consumers without a WebSocket. It keeps its place among what the
        same sender sends to the group by `group_send`, is a part of the group's history, and waits in the mailbox of a
        consumer whose client reads slowly. ``group`` and ``exclude`` are those of `group_send`.

        Raises `TypeError` unless exactly one of the three is given and can be encoded, and what `group_send` raises.
        """
        await self._send_to_groups(group, self.frame(text, bytes, json), exclude, None, READY)

    def broadcast_sync(
        self,
        group: Groups,
        *,
        text: str | None = None,
        bytes: bytes | None = None,
        json: Any = _ABSENT,
        exclude: Channels = None,
    ) -> None:
        """`broadcast` for synchronous code."""
        self._send_to_groups_sync(group, self.frame(text, bytes, json), exclude, None, READY)

    def frame(
        self,
        text: str | None = None,
        bytes: bytes | None = None,
        json: Any = _ABSENT,
    ) -> dict[str, Any]:
        """Return the message of a ready frame. JSON is what `json.dumps` makes of it, with CONFIG's ``encoder``."""
        if json is not _ABSENT:
            if text is not None or bytes is not None:
                raise TypeError(_ONE)
            text = json_library.dumps(json, default=self._settings.json_default)
        if isinstance(text, str) and bytes is None:
            return {"type": FRAME, "text": text}
        if isinstance(bytes, _Bytes) and text is None:
            return {"type": FRAME, "bytes": bytes}
        raise TypeError(_ONE)


_ONE = "broadcast() needs one of text (a str), bytes, or json (what JSON can represent)"
