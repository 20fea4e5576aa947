"""Objects to bytes and back: exactly, or not at all."""

from __future__ import annotations

import datetime
import decimal
import enum
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


# ---- payloads of others --------------------------------------------------------------------------------------------


@given(payload=st.binary())
@example(payload=b"")
@example(payload=b"\xc1")
@example(payload=b"\x91")  # a list whose item is missing
@example(payload=b"\x01\x02")  # two messages
@example(payload=b"\xa2\xff\xff")  # not UTF-8
@example(payload=b"\x81\x80\x01")  # a dict as key
@example(payload=b"\x81\x91\x80\x01")  # a list of a dict as key
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
