"""Objects to bytes and back: exactly, or not at all."""

from __future__ import annotations

import datetime
import decimal
import enum
import itertools
import math
import struct
import sys
import threading
import uuid
from collections import OrderedDict, namedtuple

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_anyio_channels import DecodeError, PayloadTooLarge
from django_anyio_channels.core.serializers import MessagePackSerializer, encode_limited

PLAIN = MessagePackSerializer()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
objects = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def same(one: object, other: object) -> bool:
    """Equal, and of equal types at every depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


@given(message=objects)
@example(
    message={"type": "chat", "text": "emoji \N{GRINNING FACE} and \0", "bytes": b"\xff\0", "deep": [[{"a": [None]}]]}
)
@example(message=[2**63 - 1, -(2**63), 2**64 - 1, 0, True, False, 1.0, -0.0, math.inf, sys.float_info.min])
def test_what_is_allowed_comes_back_exactly(message: object) -> None:
    assert same(PLAIN.decode(PLAIN.encode(message)), message)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(PLAIN.decode(PLAIN.encode(math.nan)))


def test_tuples_become_lists_at_every_depth() -> None:
    assert same(PLAIN.decode(PLAIN.encode({"a": (1, (2, [(3,)]))})), {"a": [1, [2, [[3]]]]})


def test_every_decode_makes_a_new_object() -> None:
    payload = PLAIN.encode({"list": [1]})
    PLAIN.decode(payload)["list"].append(2)
    assert PLAIN.decode(payload) == {"list": [1]}


Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


def endless() -> list[object]:
    itself: list[object] = []
    itself.append(itself)
    return itself


def nested(depth: int) -> list[object]:
    deep: list[object] = []
    for _ in range(depth):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "message",
    [
        {"a": {1, 2}},
        {"a": frozenset()},
        {"a": uuid.UUID(int=1)},
        {"a": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
        {"a": datetime.date(2026, 1, 1)},
        {"a": decimal.Decimal("1.5")},
        {"a": Colour.RED},
        {"a": object()},
        {"a": 1j},
        {"a": (number for number in [1])},
        {"a": 2**64},
        {"a": -(2**63) - 1},
        {"a": 10**100},
        {"a": "lone \ud800 surrogate"},
        {"\udfff": 1},
        {frozenset({1}): 1},
        {uuid.UUID(int=1): 1},
        {"a": nested(100_000)},
        {"a": endless()},
        object(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_cannot_come_back_is_refused_at_the_sender(message: object) -> None:
    with pytest.raises(TypeError, match="This message cannot be sent: .*convert other objects first"):
        PLAIN.encode(message)


@pytest.mark.parametrize("key", [1, -1, 1.5, True, None, b"bytes", ("a", (1, b"b"))])
def test_keys_of_other_types_come_back_exactly(key: object) -> None:
    assert same(PLAIN.decode(PLAIN.encode({key: "x"})), {key: "x"})


def test_extension_types_come_back_exactly() -> None:
    extended = [msgpack.ExtType(5, b"x"), {"a": msgpack.ExtType(127, b"")}]
    assert PLAIN.decode(PLAIN.encode(extended)) == extended


def test_subclasses_come_back_as_what_they_are_a_kind_of() -> None:
    class Text(str):
        pass

    class Number(enum.IntEnum):
        ONE = 1

    message = {"text": Text("t"), "dict": OrderedDict(a=1), "point": Point(1, 2), "number": Number.ONE}
    assert same(PLAIN.decode(PLAIN.encode(message)), {"text": "t", "dict": {"a": 1}, "point": [1, 2], "number": 1})


def test_nesting_that_people_use_comes_back() -> None:
    assert PLAIN.decode(PLAIN.encode(nested(100))) == nested(100)


def test_a_refused_message_breaks_nothing() -> None:
    with pytest.raises(TypeError):
        PLAIN.encode({"a": [1, 2, {3}]})
    assert PLAIN.decode(PLAIN.encode([1])) == [1]


def test_the_limit_counts_the_bytes_of_the_payload() -> None:
    size = len(PLAIN.encode("x" * 50))
    assert PLAIN.decode(encode_limited(size, PLAIN, "x" * 50)) == "x" * 50
    with pytest.raises(PayloadTooLarge, match=f"has {size} bytes; max_message_size is {size - 1}. Send less .*raise"):
        encode_limited(size - 1, PLAIN, "x" * 50)


# ---- errors and their cures ------------------------------------------------------------------------------------------

TODAY = datetime.date(2026, 11, 29)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"type": "x", "at": TODAY}, "message['at'] (date)"),
        ({"a": {"b": [1, (2, {3})]}}, "message['a']['b'][1][1] (set)"),
        ({"a": 2**64}, "message['a'] (int)"),
        ({"a": "lone \ud800"}, "message['a'] (str)"),
        ({"a": {uuid.UUID(int=1): 1}}, f"the key of message['a'][{uuid.UUID(int=1)!r}] (UUID)"),
        ({"k" * 100: {1}}, f"message['{'k' * 59}] (set)"),
        ({1}, "message (set)"),
        (endless(), "message" + 20 * "[0]" + "[...]"),
    ],
)
def test_the_error_names_what_cannot_be_sent(message: object, place: str) -> None:
    with pytest.raises(TypeError) as caught:
        PLAIN.encode(message)
    assert str(caught.value).startswith(f"This message cannot be sent: {place}: ")
    assert "convert other objects first, in Django by CONFIG['encoder']" in str(caught.value)


def test_default_returns_what_is_sent_in_place_of_other_objects() -> None:
    serializer = MessagePackSerializer(default=str)
    message = {"at": TODAY, "list": [{"id": uuid.UUID(int=1)}], TODAY: 1, "price": decimal.Decimal("1.50")}
    text = {"at": "2026-11-29", "list": [{"id": str(uuid.UUID(int=1))}], "2026-11-29": 1, "price": "1.50"}
    assert same(serializer.decode(serializer.encode(message)), text)
    assert serializer.encode(text) == PLAIN.encode(text)


def test_what_default_refuses_is_named() -> None:
    def refuse(part: object) -> object:
        raise ValueError("no such thing")

    with pytest.raises(TypeError, match=r"message\['at'\] \(date\): no such thing"):
        MessagePackSerializer(default=refuse).encode({"at": TODAY})


# ---- keys ------------------------------------------------------------------------------------------------------------


def colliding(count: int) -> list[tuple[int, int]]:
    """Tuples with one hash, as an attacker finds them: the hash of a tuple can be computed backwards."""
    size, one, two, start = 2**64, 11400714785074694791, 14029467366897019727, 2870177450012600261
    found: list[tuple[int, int]] = []
    for number in itertools.count():
        lane = (start + number * two) % size
        lane = ((lane << 31 | lane >> 33) * one) % size
        wanted = (12345 * pow(one, -1, size)) % size
        other = ((wanted >> 31 | wanted << 33) % size - lane) * pow(two, -1, size) % size
        if other < 2**61 - 1:
            found.append((number, other))
        if len(found) == count:
            return found
    raise AssertionError


def test_keys_whose_hashes_collide_are_refused() -> None:
    """20,000 of them would keep a reader busy for ten seconds."""
    keys = colliding(20_000)
    assert len(set(map(hash, keys[:100]))) == 1
    payload = msgpack.Packer().pack_map_pairs([(key, None) for key in ["type", *keys]])
    for serializer in (PLAIN, MessagePackSerializer(only=dict)):
        with pytest.raises(DecodeError, match="not a MessagePack message"):
            serializer.decode(payload)
        with pytest.raises(DecodeError, match="not a MessagePack message"):
            serializer.decode(msgpack.packb({"type": "x", "inner": [0]})[:-2] + b"\x91" + payload)


def test_a_large_dict_with_tuples_as_keys_is_refused_at_the_sender() -> None:
    for message in ({(number, number): "x" * 50 for number in range(16)}, {(0, number): 0 for number in range(70_000)}):
        with pytest.raises(TypeError, match="whose keys are str, bytes or int"):
            PLAIN.encode([message])


def test_what_looks_like_such_a_dict_comes_back() -> None:
    message = {"binary": b"\xde\x00\x10\x92" + bytes(1000)}
    assert PLAIN.decode(PLAIN.encode(message)) == message


@given(value=objects)
@example(value=msgpack.ExtType(5, b"x"))
@example(value=datetime.datetime(2026, 11, 29, 1, 2, 3, 4, tzinfo=datetime.UTC))
def test_a_large_dict_comes_back_as_a_small_one_does(value: object) -> None:
    packed: bytes = msgpack.packb(value, datetime=True)
    small = PLAIN.decode(packed)
    pairs = b"".join(msgpack.packb(key) + packed for key in [*range(1000, 1100), *map(str, range(100)), b"b"])
    large = PLAIN.decode(b"\xde\x00\xc9" + pairs)
    assert list(large) == [*range(1000, 1100), *map(str, range(100)), b"b"]
    assert all(same(each, small) for each in large.values())


def test_only_a_message_of_one_type() -> None:
    large = {str(number): "x" * 50 for number in range(20)}
    only_dicts = MessagePackSerializer(only=dict)
    assert only_dicts.decode(PLAIN.encode(large)) == large
    for other in ([1], [large], None):
        with pytest.raises(DecodeError, match="not a MessagePack message"):
            only_dicts.decode(PLAIN.encode(other))


# ---- payloads of others --------------------------------------------------------------------------------------------


@given(payload=st.binary())
@example(payload=b"")
@example(payload=b"\xc1")
@example(payload=b"\x91")  # a list whose item is missing
@example(payload=b"\x01\x02")  # two messages
@example(payload=b"\xa2\xff\xff")  # not UTF-8
@example(payload=b"\x81\x80\x01")  # a dict as key
@example(payload=b"\x81\x91\x80\x01")  # a list of a dict as key
@example(payload=b"\x92\xc7\x0c\xff\x00\x00\x00\x00\x40" + bytes(7) + b"\xc5\x03\x00" + b"\xde" * 768)  # a late time
@example(payload=b"\x91" * 100_000)
@example(payload=b"\xdd\xff\xff\xff\xff")  # a list of four thousand million items that are not there
def test_any_bytes_are_a_message_or_a_decode_error(payload: bytes) -> None:
    try:
        message = PLAIN.decode(payload)
    except DecodeError as error:
        assert str(error)
    else:
        assert not isinstance(message, set)


@pytest.mark.parametrize(
    "payload",
    [b'{"json": 1}', b"\x80\x04N."],
)
def test_a_payload_that_encode_does_not_write_is_an_error(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="not a MessagePack message"):
        PLAIN.decode(payload)


def test_threads_may_share_a_serializer() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        payloads = [PLAIN.encode([number, count]) for count in range(20)]
        wrong.extend(
            message
            for _ in range(20)
            for count, payload in enumerate(payloads)
            if (message := PLAIN.decode(payload)) != [number, count]
        )

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
