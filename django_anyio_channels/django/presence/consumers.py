"""The mixin for consumers that show who is in their groups.

It is for the consumers of those who use Channels, which are made by inheritance; nothing in this package is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...core.exceptions import MissingDriver

try:
    from asgiref.sync import async_to_sync
    from channels.consumer import SyncConsumer
except ModuleNotFoundError as error:
    raise MissingDriver(
        "The mixins for consumers need Django and Channels: pip install django-anyio-channels[django]"
    ) from error

Message = dict[str, Any]


class PresenceMixin:
    """For asynchronous and synchronous consumers: ``class Room(PresenceMixin, AsyncWebsocketConsumer)``.

    The methods of an asynchronous consumer are coroutines, those of a synchronous one are not. A consumer is in a group
    as a member by `join_presence`, or by ``group_add(..., member=...)`` of its layer.
    """

    def member_joined(self, event: Message) -> Any:
        """Override it: a member has joined a group of this consumer; it may be this consumer's own.

        ``event`` has ``group``, ``member``, ``metas`` (a list of dicts, one for each channel) and ``since`` (seconds
        since the epoch). It comes once for a member, in the same order to all.
        """
        return self._nothing()

    def member_updated(self, event: Message) -> Any:
        """Override it: a member has other metas, by `update_meta` or by a window more or less.

        ``event`` is that of `member_joined`.
        """
        return self._nothing()

    def member_left(self, event: Message) -> Any:
        """Override it: the last channel of a member has been gone for ``presence_grace`` seconds.

        ``event`` has ``group`` and ``member``.
        """
        return self._nothing()

    def join_presence(self, group: str, member: str, meta: dict[str, Any] | None = None) -> Any:
        """Add this consumer to a group as a channel of ``member``, and return the members that are there.

        The result is that of ``group_members``. What changes from then on comes by the other methods; a change that is
        in the result may come once more.
        """
        return self._call(self._join_presence, group, member, meta)

    def update_meta(self, group: str, meta: dict[str, Any]) -> Any:
        """Change this consumer's meta in a group. Raises `ValueError` unless it has joined by `join_presence`."""
        return self._call(self._update_meta, group, meta)

    def leave_presence(self, group: str) -> Any:
        """Remove this consumer from a group; its member leaves after the grace period."""
        return self._call(self._leave_presence, group)

    def presence_changed(self, message: Message) -> Any:
        """Call the three methods for each change that a message of the layer tells."""
        events = _events(message)
        if isinstance(self, SyncConsumer):
            for method, event in events:
                getattr(self, method)(event)
            return None
        return self._handle(events)

    async def _handle(self, events: Iterator[tuple[str, Message]]) -> None:
        for method, event in events:
            await getattr(self, method)(event)

    async def _join_presence(self: Any, group: str, member: str, meta: dict[str, Any] | None) -> Any:
        layer, channel = self.channel_layer, self.channel_name
        await layer.group_add(group, channel, member=member, meta=meta, watch=True)
        vars(self).setdefault("_presence_members", {})[group] = member
        return await layer.group_members(group)

    async def _update_meta(self: Any, group: str, meta: dict[str, Any]) -> None:
        member = vars(self).get("_presence_members", {}).get(group)
        if member is None:
            raise ValueError(f"This consumer has no member in {group!r}; call join_presence() first")
        await self.channel_layer.group_add(group, self.channel_name, member=member, meta=meta, watch=True)

    async def _leave_presence(self: Any, group: str) -> None:
        vars(self).get("_presence_members", {}).pop(group, None)
        await self.channel_layer.group_discard(group, self.channel_name)

    def _call(self, method: Any, *arguments: Any) -> Any:
        return async_to_sync(method)(*arguments) if isinstance(self, SyncConsumer) else method(*arguments)

    def _nothing(self) -> Any:
        return None if isinstance(self, SyncConsumer) else _done()


async def _done() -> None:
    """What an asynchronous consumer awaits that has nothing to do."""


def _events(message: Message) -> Iterator[tuple[str, Message]]:
    group = message["group"]
    for member, described in message["joined"].items():
        yield "member_joined", {"type": "member.joined", "group": group, "member": member, **described}
    for member, described in message["updated"].items():
        yield "member_updated", {"type": "member.updated", "group": group, "member": member, **described}
    for member in message["left"]:
        yield "member_left", {"type": "member.left", "group": group, "member": member}
