"""The messages between nodes about queues, in MessagePack. Other payloads are refused when they are read."""

from __future__ import annotations

from typing import Any

import msgspec

from .store import PackedMessage

PackedBinding = tuple[str, int, float, float]
"""Group, capacity, expiry in seconds, and the seconds that are left of its lifetime."""

Request = tuple[str, str, int, Any]
"""Verb, requesting node, its number for the request, and the arguments of the verb."""

Reply = tuple[int, str, Any]
"""The number of the request, the kind of reply, and its values."""

HandOff = tuple[str, int, bytes, str, Any]
"""Leaving node, its number for the reply, the queue's topic, and the verb and argument of a request to its owner."""

_REQUESTS: dict[str, Any] = {
    "probe": tuple[()],
    "take": tuple[list[int]],
    "stop": tuple[list[int]],
    "put": tuple[bytes, int, float],
    "requeue": tuple[list[PackedMessage]],
    "bind": tuple[list[PackedBinding]],
    "unbind": tuple[str],
}
_REPLIES: dict[str, Any] = {
    "ok": tuple[()],
    "full": tuple[()],
    "retry": tuple[()],
    "message": tuple[bytes, PackedMessage],
}

encode = msgspec.msgpack.Encoder().encode
_lists = msgspec.msgpack.Decoder(list[Any])
_hand_offs: msgspec.msgpack.Decoder[HandOff] = msgspec.msgpack.Decoder(HandOff)
read_prefix = msgspec.msgpack.Decoder(str).decode

INVALID = (msgspec.DecodeError, ValueError, KeyError)
"""What reading raises for a payload that no node has written."""


def read_request(payload: bytes) -> Request:
    """Read a request. The arguments of a verb that this version does not know are not checked."""
    verb, node, number, *arguments = _lists.decode(payload)
    verb, node, number = msgspec.convert((verb, node, number), tuple[str, str, int])
    expected = _REQUESTS.get(verb)
    return verb, _checked(node), number, arguments if expected is None else msgspec.convert(arguments, expected)


def read_reply(payload: bytes) -> Reply:
    """Read a reply."""
    number, kind, *values = _lists.decode(payload)
    number, kind = msgspec.convert((number, kind), tuple[int, str])
    return number, kind, msgspec.convert(values, _REPLIES[kind])


def read_hand_off(payload: bytes) -> HandOff:
    """Read a hand-off."""
    node, number, topic, verb, argument = _hand_offs.decode(payload)
    _checked(topic.decode())
    (argument,) = msgspec.convert([argument], _REQUESTS[verb])
    return _checked(node), number, topic, verb, argument


def _checked(text: str) -> str:
    """Refuse a part of a topic that would make it a filter."""
    if any(each in text for each in "+#\0"):
        raise ValueError(f"{text!r} is not part of a topic")
    return text
