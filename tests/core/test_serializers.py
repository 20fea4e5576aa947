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

from django_anyio_channels import DecodeError, MissingDriver, PayloadTooLarge
from django_anyio_channels.core.serializers import (
    EncryptedSerializer,
    MessagePackSerializer,
    Serializer,
    encode_limited,
)

PLAIN = MessagePackSerializer()
ENCRYPTED = EncryptedSerializer(PLAIN, ["secret"])

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


@pytest.mark.parametrize("serializer", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
@given(message=objects)
@example(
    message={"type": "chat", "text": "emoji \N{GRINNING FACE} and \0", "bytes": b"\xff\0", "deep": [[{"a": [None]}]]}
)
@example(message=[2**63 - 1, -(2**63), 2**64 - 1, 0, True, False, 1.0, -0.0, math.inf, sys.float_info.min])
def test_what_is_allowed_comes_back_exactly(serializer: Serializer, message: object) -> None:
    assert same(serializer.decode(serializer.encode(message)), message)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(PLAIN.decode(PLAIN.encode(math.nan)))


def test_tuples_become_lists_at_every_depth() -> None:
    assert same(PLAIN.decode(PLAIN.encode({"a": (1, (2, [(3,)]))})), {"a": [1, [2, [[3]]]]})


def test_every_decode_makes_a_new_object() -> None:
    for serializer in (PLAIN, ENCRYPTED):
        payload = serializer.encode({"list": [1]})
        first = serializer.decode(payload)
        first["list"].append(2)
        assert serializer.decode(payload) == {"list": [1]}


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
    for serializer in (PLAIN, ENCRYPTED):
        with pytest.raises(TypeError, match="This message cannot be sent: .*convert other objects first"):
            serializer.encode(message)


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


@pytest.mark.parametrize("serializer", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
def test_the_limit_counts_the_bytes_of_the_frame(serializer: Serializer) -> None:
    size = len(serializer.encode("x" * 50))
    assert serializer.decode(encode_limited(size, serializer, "x" * 50)) == "x" * 50
    with pytest.raises(PayloadTooLarge, match=f"has {size} bytes; max_message_size is {size - 1}. Send less .*raise"):
        encode_limited(size - 1, serializer, "x" * 50)


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
    for serializer in (PLAIN, ENCRYPTED):
        try:
            message = serializer.decode(payload)
        except DecodeError as error:
            assert str(error)
        else:
            assert serializer is PLAIN
            assert not isinstance(message, set)


@pytest.mark.parametrize(
    "payload",
    [b'{"json": 1}', b"\x80\x04N."],
)
def test_a_payload_that_encode_does_not_write_is_an_error(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="not a MessagePack message"):
        PLAIN.decode(payload)


# ---- encryption --------------------------------------------------------------------------------------------------


def test_nothing_of_the_message_is_readable() -> None:
    assert b"attack at dawn" not in ENCRYPTED.encode({"text": "attack at dawn"})
    assert ENCRYPTED.encode(1) != ENCRYPTED.encode(1)


def test_keys_are_rotated_in_three_steps() -> None:
    old, both, new = (EncryptedSerializer(PLAIN, keys) for keys in (["old"], ["new", "old"], ["new"]))
    assert both.decode(old.encode("x")) == "x"
    assert both.decode(new.encode("x")) == "x"
    assert new.decode(both.encode("x")) == "x", "the first key encrypts"
    with pytest.raises(DecodeError, match="none of symmetric_encryption_keys decrypts it"):
        old.decode(both.encode("x"))
    with pytest.raises(DecodeError):
        new.decode(old.encode("x"))


def test_keys_are_text_or_bytes_of_any_length() -> None:
    for key in ("k", b"k", "k" * 1000, "\N{GRINNING FACE}", b"\0\xff"):
        assert EncryptedSerializer(PLAIN, [key]).decode(EncryptedSerializer(PLAIN, (key,)).encode("x")) == "x"
    assert EncryptedSerializer(PLAIN, ["k"]).decode(EncryptedSerializer(PLAIN, [b"k"]).encode("x")) == "x"


@pytest.mark.parametrize("keys", ["key", b"key", [], (), 0, 7, {}, {"a", "b"}])
def test_a_single_key_is_not_a_list_of_keys(keys: object) -> None:
    with pytest.raises(ValueError, match="symmetric_encryption_keys must be a non-empty list"):
        EncryptedSerializer(PLAIN, keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", b"", None, 1])
def test_a_key_is_not_empty(key: object) -> None:
    with pytest.raises(ValueError, match="must be a non-empty str or bytes"):
        EncryptedSerializer(PLAIN, ["good", key])  # type: ignore[list-item]


def test_a_payload_that_was_tampered_with_is_an_error() -> None:
    payload = bytearray(ENCRYPTED.encode("x"))
    payload[len(payload) // 2] ^= 1
    for wrong in (bytes(payload), bytes(payload[:-5]), PLAIN.encode("x"), b""):
        with pytest.raises(DecodeError):
            ENCRYPTED.decode(wrong)


def test_a_decrypted_payload_that_is_no_message_is_an_error() -> None:
    class Raw:
        def encode(self, message: bytes) -> bytes:
            return message

        decode = PLAIN.decode

    with pytest.raises(DecodeError, match="not a MessagePack message"):
        ENCRYPTED.decode(EncryptedSerializer(Raw(), ["secret"]).encode(b"\xc1"))


def test_encryption_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingDriver, match=r"pip install django-anyio-channels\[encryption\]"):
        EncryptedSerializer(PLAIN, ["key"])


def test_threads_may_share_a_serializer() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        payloads = [ENCRYPTED.encode([number, count]) for count in range(20)]
        wrong.extend(
            message
            for _ in range(20)
            for count, payload in enumerate(payloads)
            if (message := ENCRYPTED.decode(payload)) != [number, count]
        )

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
