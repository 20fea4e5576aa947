"""Reads the records of the nodes that are present."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...core.exceptions import DecodeError
from ...hub.channel import Channel
from ..names import BrokerNames
from .records import Entry, NodeRecords, decode_counts, decode_records, merge, node_of_key

T = TypeVar("T")


class RecordReader:
    """What the nodes of a prefix keep at the broker."""

    def __init__(self, channel: Channel, names: BrokerNames) -> None:
        self._channel = channel
        self._names = names

    async def present_nodes(self) -> set[str]:
        """Return the nodes that are present in any group."""
        keys = await self._channel.presence.read(self._names.present_nodes)
        return {node for node in map(node_of_key, keys) if node is not None}

    async def records(self, group: str) -> dict[str, NodeRecords]:
        """Return what each node has written about a group."""
        return await self._read(self._names.presence(group), decode_records)

    async def members(self, group: str) -> dict[str, Entry]:
        """Return the merged members of all nodes."""
        entries: dict[str, list[Entry]] = {}
        for _, of_node in (await self.records(group)).values():
            for member, entry in of_node.items():
                entries.setdefault(member, []).append(entry)
        return {member: merge(of_member) for member, of_member in entries.items()}

    async def count(self, group: str) -> tuple[int, int]:
        """Return how many channels and members there are."""
        members: set[str] = set()
        channels = 0
        for counts in (await self._read(self._names.counts(group), decode_counts)).values():
            members.update(counts)
            channels += sum(counts.values())
        return channels, len(members)

    async def _read(self, name: str, decode: Callable[[dict[str, bytes]], T | None]) -> dict[str, T]:
        """Return what ``decode`` makes of the records of each node. What no node has written is counted and logged."""
        records = await self._channel.presence.read(name)
        present = await self.present_nodes() if records else set()
        by_node: dict[str, dict[str, bytes]] = {}
        for key, content in records.items():
            node = node_of_key(key)
            if node is not None and node in present:
                by_node.setdefault(node, {})[key] = content
        found = {}
        for node, contents in by_node.items():
            try:
                decoded = decode(contents)
            except DecodeError as error:
                self._channel.stats.count_undecodable(name, error)
            else:
                if decoded is not None:
                    found[node] = decoded
        return found
