"""`django.presence.records`: what others may write is parsed with types and limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from django_anyio_channels import DecodeError
from django_anyio_channels.django.presence import records
from django_anyio_channels.django.presence.records import (
    Entry,
    Gone,
    Head,
    Update,
    decode_counts,
    decode_event,
    decode_records,
    encode_counts,
    encode_event,
    encode_head,
    encode_part,
    merge,
    node_of_key,
)

NODE = "0123456789abcdef"
encode = msgspec.msgpack.encode


def test_events_come_back() -> None:
    update = Update(NODE, 3, 4, {"ana": Entry(1.5, 1, [b"meta"])}, ["bob"])
    for event in (update, Update(NODE, 4, 4), Gone({NODE: 7})):
        assert decode_event(encode_event(event)) == event


def test_records_come_back() -> None:
    members = {"ana": Entry(1.5, 1, [b"meta"]), "bob": Entry(2.5, 0, [b""])}
    head = Head(3, 4, 2)
    read = decode_records({NODE: encode_head(head), f"{NODE}.0": encode_part(members)})
    assert read == (head, members)
    assert read is not None
    assert read.are_complete
    assert decode_records({f"{NODE}.0": encode_part(members)}) is None
    assert decode_counts({f"{NODE}.0": encode_counts(members)}) == {"ana": 1, "bob": 0}


@pytest.mark.parametrize(
    "forged",
    [
        "x",
        {"kind": "update"},
        {"kind": "other"},
        {"kind": "gone", "nodes": {"not a node": 1}},
        {"kind": "gone", "nodes": {NODE: -1}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 2**60},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"": [1.0, 1, []]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x" * 201: [1.0, 1, []]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x": [1e300, 1, []]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x": [float("nan"), 1, []]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x": [1.0, -1, []]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x": [1.0, 1, [b"x" * 2049]]}},
        {"kind": "update", "node": NODE, "previous": 0, "number": 1, "put": {"x": [1.0, 1, [b""] * 33]}},
    ],
)
def test_forged_events_are_refused(forged: Any) -> None:
    with pytest.raises(DecodeError, match="not a presence record of this version"):
        decode_event(encode(forged))


def test_forged_records_are_refused() -> None:
    for contents in ({NODE: b"\xc1"}, {NODE: encode([1, 2])}, {f"{NODE}.0": encode({"x": 1})}):
        with pytest.raises(DecodeError):
            decode_records(contents)
    with pytest.raises(DecodeError):
        decode_counts({f"{NODE}.0": b"\x91" * 5000})


def test_keys() -> None:
    assert node_of_key(NODE) == node_of_key(f"{NODE}.12") == NODE
    for key in ("", "x", f"{NODE}.", f"{NODE}.x", f"{NODE}.1\n", NODE.upper()):
        assert node_of_key(key) is None
    assert records.MEMBERS_AT_ONCE * (records.LARGEST_META + records.LONGEST_MEMBER) < 1024 * 1024


def test_an_event_has_a_largest_size() -> None:
    names = [f"{number:200}" for number in range(records.LARGEST_EVENT // 200)]
    with pytest.raises(DecodeError, match="of more than 1048576 bytes"):
        decode_event(encode_event(Update(NODE, 3, 4, {}, names)))


@pytest.mark.parametrize("node", [NODE + "\n", "\n" + NODE])
def test_the_name_of_a_node_is_one_line(node: str) -> None:
    with pytest.raises(DecodeError):
        decode_event(encode_event(Update(node, 3, 4)))


def test_a_member_at_any_number_of_nodes_has_a_bounded_number_of_metas() -> None:
    of_nodes = [Entry(float(2000 - number), 32, [b"%d" % number] * 32) for number in range(1000)]
    merged = merge(of_nodes)
    assert (merged.since, merged.channels) == (1001.0, 32_000)
    assert merged.metas == [meta for entry in of_nodes for meta in entry.metas][: records.MOST_MERGED_METAS]
    graced = [Entry(3.0, 0, [b"last"]), Entry(2.0, 0, [b"other"])]
    assert merge(graced) == Entry(2.0, 0, [b"last"])
