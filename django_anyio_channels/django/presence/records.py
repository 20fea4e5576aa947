"""What nodes tell each other of their members: the records that they keep at the broker, and the events about changes.

A node numbers its changes of a group. Who has seen the change that an event follows on knows all that the event tells;
who has not reads the records. They are parsed with types and limits: whoever may publish at the broker can write some.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import chain, islice
from typing import Annotated, Any, NamedTuple

import msgspec

from ...core.exceptions import DecodeError

RECORD_SECONDS = 3600.0
"""How long the broker keeps the records of a group that no node renews."""

MEMBERS_AT_ONCE = 256
"""How many members change in one event at most; the next ones follow in another."""
BYTES_AT_ONCE = 128 * 1024
"""How many bytes of metas, at most, go along with another member in one event."""
LARGEST_EVENT = 1024 * 1024
"""Bytes; an event with all that it may have takes about half of it."""

LONGEST_MEMBER = 200
"""Characters."""
LARGEST_META = 2048
"""Bytes of one encoded meta."""
MOST_METAS = 32
"""How many metas of one member a node tells, the latest ones."""
LARGEST_METAS = 16 * 1024
"""Bytes that these have together at most."""
MOST_MERGED_METAS = 1000
"""How many metas a member has at all nodes together; the cost of every change of it depends on that."""

_KEY = re.compile(r"([0-9a-f]{16})(?:\.[0-9]{1,9})?")

NodeId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Member = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_MEMBER)]
_Meta = Annotated[bytes, msgspec.Meta(max_length=LARGEST_META)]
_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Joining(msgspec.Struct, frozen=True):
    """What `AnyioChannelLayer.group_add` says of a channel besides its group."""

    member: Annotated[str, msgspec.Meta(max_length=LONGEST_MEMBER)] = ""
    """Empty for a channel that is to be notified of the members and is none of them."""
    meta: _Meta = b""
    """Encoded."""
    watch: bool = False
    """Whether the channel is sent a message when the members change."""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One member at one node."""

    since: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    """Seconds since the epoch."""
    channels: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    """0 during the grace period."""
    metas: Annotated[list[_Meta], msgspec.Meta(max_length=MOST_METAS)]
    """Encoded; of the grace period, the last one."""


def merge(entries: Collection[Entry]) -> Entry:
    """Return the entry of a member by those of its nodes, of which there is one at least."""
    if len(entries) == 1:
        return next(iter(entries))
    metas = chain.from_iterable(entry.metas for entry in entries if entry.channels)
    return Entry(
        min(entry.since for entry in entries),
        sum(entry.channels for entry in entries),
        list(islice(metas, MOST_MERGED_METAS)) or next(iter(entries)).metas,
    )


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What a node says of its members of a group as a whole; they are in other records, part by part."""

    previous: _Number
    """The number of the change before `number`."""
    number: _Number
    """The number of the last change."""
    size: _Number
    """How many members there are in all parts."""


class NodeRecords(NamedTuple):
    """What was read of one node and group."""

    head: Head
    members: dict[str, Entry]

    @property
    def are_complete(self) -> bool:
        """Whether they are of one time. Else the node is just writing them, or has yet to do so after an outage."""
        return len(self.members) == self.head.size


class Update(msgspec.Struct, tag_field="kind", tag="update"):
    """A change of the members of one node; without members it only says which one was the last."""

    node: NodeId
    previous: _Number
    """The number of the change before this one; 0 if the node had no member in the group."""
    number: _Number
    put: dict[Member, Entry] = {}
    removed: list[Member] = []


class Gone(msgspec.Struct, tag_field="kind", tag="gone"):
    """Nodes that renew their presence no more, each with the number of its last change."""

    nodes: dict[NodeId, _Number]


_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(Update | Gone).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_part = msgspec.msgpack.Decoder(dict[Member, Entry]).decode
_decode_counts = msgspec.msgpack.Decoder(dict[Member, _Number]).decode

encode_event = _encode
encode_head = _encode
encode_part = _encode


def encode_counts(members: dict[str, Entry]) -> bytes:
    """Encode how many channels each member has."""
    return _encode({member: entry.channels for member, entry in members.items()})


def decode_event(payload: bytes) -> Update | Gone:
    """Raises `DecodeError` for what no node of this version has written."""
    if len(payload) > LARGEST_EVENT:
        raise DecodeError(f"it is an event of presence of more than {LARGEST_EVENT} bytes")
    return _checked(_decode_event, payload)  # type: ignore[no-any-return]


def decode_records(contents: Mapping[str, bytes]) -> NodeRecords | None:
    """Decode the records of one node by their keys; None if there is no head. Raises `DecodeError`."""
    head, members = None, {}
    for key, content in contents.items():
        if "." in key:
            members.update(_checked(_decode_part, content))
        else:
            head = _checked(_decode_head, content)
    return None if head is None else NodeRecords(head, members)


def decode_counts(contents: Mapping[str, bytes]) -> dict[str, int]:
    """Decode what `encode_counts` returned for the parts of one node. Raises `DecodeError`."""
    return {member: count for part in contents.values() for member, count in _checked(_decode_counts, part).items()}


def _checked(decode: Any, payload: bytes) -> Any:
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DecodeError(f"it is not a presence record of this version ({error})") from error


def node_of_key(key: str) -> str | None:
    """Return the node that a record's key belongs to; None for a key that no node has made."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None
