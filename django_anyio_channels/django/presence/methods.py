"""The methods of the layer about who is in a group."""

from __future__ import annotations

from datetime import UTC, datetime

from ..base import LayerBase
from ..nodes.node import Node
from ..settings import Settings
from .group import decode_metas
from .records import LARGEST_META, LONGEST_MEMBER, Joining
from .results import GroupCount, Member


class PresenceMethods(LayerBase):
    """What `AnyioChannelLayer` says of the members of groups."""

    async def group_members(self, group: str) -> dict[str, Member]:
        """Return the members of a group, on all processes, by the names that `group_add` was given.

        What this event loop did before is seen; what others did, in a moment. Raises `NotSupported` for a layer
        without presence, and `ListenerClosed` without a connection.
        """
        self.require_valid_group_name(group)
        return await self._dispatcher.call(lambda node: _members(node, group))

    async def group_count(self, group: str) -> GroupCount:
        """Return how many channels and members are in a group; it reads no metas."""
        self.require_valid_group_name(group)
        return await self._dispatcher.call(lambda node: _count(node, group))

    def group_members_sync(self, group: str) -> dict[str, Member]:
        """`group_members` for synchronous code."""
        self.require_valid_group_name(group)
        return self._dispatcher.call_sync(lambda node: _members(node, group))

    def group_count_sync(self, group: str) -> GroupCount:
        """`group_count` for synchronous code."""
        self.require_valid_group_name(group)
        return self._dispatcher.call_sync(lambda node: _count(node, group))


def joining_of(settings: Settings, member: object, meta: object, watch: bool) -> Joining | None:
    """Check what ``group_add`` was given besides the names; None if that is nothing.

    Raises `TypeError` and `ValueError`.
    """
    if member is None and not watch:
        if meta is not None:
            raise TypeError("group_add() got meta without member: a meta describes a member")
        return None
    if member is not None and (not isinstance(member, str) or not 0 < len(member) <= LONGEST_MEMBER):
        found = f"{len(member)} characters" if isinstance(member, str) else type(member).__name__
        raise TypeError(
            f"member must be a str of 1 to {LONGEST_MEMBER} characters, not {found}; for a user take str(user.pk)"
        )
    if meta is not None and not isinstance(meta, dict):
        raise TypeError(f"meta must be a dict, not {type(meta).__name__}")
    encoded = settings.serializer.encode(meta or {})
    if len(encoded) > LARGEST_META:
        raise ValueError(
            f"meta has {len(encoded)} bytes, more than {LARGEST_META}: all members of the group get it. Send a key to "
            f"fetch the rest by"
        )
    return Joining(member or "", encoded, watch)


async def _members(node: Node, group: str) -> dict[str, Member]:
    return {
        member: Member(decode_metas(node.channel, entry.metas), datetime.fromtimestamp(entry.since, UTC))
        for member, entry in (await node.presence.members(group)).items()
    }


async def _count(node: Node, group: str) -> GroupCount:
    return GroupCount(*await node.presence.count(group))
