"""What nodes say to each other about queues, as MessagePack. What no node can have said is refused when it is read."""

from __future__ import annotations

from typing import Any

import msgspec

from .store import Packed

PackedBinding = tuple[str, int, float, float]
"""Group, capacity, expiry, and the seconds that it has left."""

Request = tuple[str, str, int, Any]
"""Verb, asking node, its number for the request, and what the verb needs."""

Answer = tuple[int, str, Any]
"""The request's number, the kind of answer, and what that brings."""

Legacy = tuple[str, int, bytes, list[Packed], list[PackedBinding]]
"""Leaving node, its number for the answer, the queue's topic, messages and bindings."""

_REQUESTS: dict[str, Any] = {
    "hello": tuple[()],
    "take": tuple[list[int]],
    "stop": tuple[list[int]],
    "put": tuple[bytes, int, float],
    "back": tuple[list[Packed]],
    "bind": tuple[list[PackedBinding]],
    "unbind": tuple[str],
}
_ANSWERS: dict[str, Any] = {
    "ok": tuple[()],
    "full": tuple[()],
    "again": tuple[()],
    "message": tuple[bytes, Packed],
}

encode = msgspec.msgpack.Encoder().encode
_lists = msgspec.msgpack.Decoder(list[Any])
_legacies: msgspec.msgpack.Decoder[Legacy] = msgspec.msgpack.Decoder(Legacy)
_prefixes = msgspec.msgpack.Decoder(tuple[str])


class Foreign(ValueError):
    """No node has written this."""


def read_request(payload: bytes) -> Request:
    """Raises `Foreign`. A verb of another version has whatever it has."""
    try:
        verb, node, number, *arguments = _lists.decode(payload)
        verb, node, number = msgspec.convert((verb, node, number), tuple[str, str, int])
        wanted = _REQUESTS.get(verb)
        return verb, _name(node), number, arguments if wanted is None else msgspec.convert(arguments, wanted)
    except (msgspec.DecodeError, ValueError) as error:
        raise Foreign(str(error)) from None


def read_answer(payload: bytes) -> Answer:
    """Raises `Foreign`."""
    try:
        number, kind, *found = _lists.decode(payload)
        number, kind = msgspec.convert((number, kind), tuple[int, str])
        return number, kind, msgspec.convert(found, _ANSWERS[kind])
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise Foreign(str(error)) from None


def read_legacy(payload: bytes) -> Legacy:
    """Raises `Foreign`."""
    try:
        legacy = _legacies.decode(payload)
        _name(legacy[0])
        _name(legacy[2].decode())
    except (msgspec.DecodeError, ValueError) as error:
        raise Foreign(str(error)) from None
    return legacy


def read_prefix(payload: bytes) -> str:
    """Raises `Foreign`."""
    try:
        return _prefixes.decode(payload)[0]
    except (msgspec.DecodeError, ValueError) as error:
        raise Foreign(str(error)) from None


def _name(text: str) -> str:
    """What is part of a topic must not be a filter."""
    if any(each in text for each in "+#\0"):
        raise ValueError(f"{text!r} is no part of a topic")
    return text
