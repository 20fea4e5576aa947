"""Objects to bytes and back. Nothing here can execute what a payload contains."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgpack
import msgspec

from .exceptions import DecodeError, PayloadTooLarge

MARKER = b"\xc1"
"""The first byte of a payload that is not simply an encoded message: no MessagePack begins with it."""


class Serializer(Protocol):
    """Turns a message into bytes and back, for any number of threads at once."""

    def encode(self, message: Any) -> bytes:
        """Raises `TypeError` for what cannot be encoded."""

    def decode(self, payload: bytes) -> Any:
        """A new object for every call. Raises `DecodeError` for a payload that `encode` didn't write."""


def encode_limited(limit: int, serializer: Serializer, message: Any) -> bytes:
    """Encode a message. Raises `TypeError` for what cannot be encoded, `PayloadTooLarge` above the limit."""
    payload = serializer.encode(message)
    if len(payload) > limit:
        raise PayloadTooLarge(
            f"The encoded message has {len(payload)} bytes; max_message_size is {limit}. "
            f"Send less (a key to fetch it by, say), or raise the limit"
        )
    return payload


class MessagePackSerializer:
    """MessagePack (https://msgpack.org): ``str bytes int float bool None list dict``, exactly; tuples become lists.

    Integers reach from -2**63 to 2**64-1. Keys are str, bytes or int. What would come back as something else (a set, a
    UUID, a datetime) or not at all is refused at the sender with `TypeError`, unless ``default`` returns what to send
    in its place. With ``only``, a payload that holds another type is an error.
    """

    # msgpack refuses what msgspec would silently turn into a str or a list; msgspec decodes twice as fast.
    def __init__(self, only: type | None = None, default: Callable[[Any], Any] | None = None) -> None:
        self._only = only or object
        self._packers = _Packers(default)
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(only or Any, ext_hook=_extension)
        self._decode = decoder.decode

    def encode(self, message: Any) -> bytes:
        try:
            payload: bytes = self._packers.pack(message)
            if len(payload) > _SMALL and _may_hold_large_map(payload) and _LARGE_MAP_WITH_TUPLE.search(payload):
                _decode_without_tuples(payload)  # which may also be a number or a text that looks like one
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(
                f"This message cannot be sent: {self._place_of_error(message, 'message')}: {error}. Messages may hold "
                f"str, bytes, int (64 bit), float, bool, None, lists, and dicts whose keys are str, bytes or int; "
                f"convert other objects first, in Django by CONFIG['encoder']"
            ) from error
        return payload

    def decode(self, payload: bytes) -> Any:
        try:
            if len(payload) <= _SMALL or not _may_hold_large_map(payload):
                return self._decode(payload)
            message = _decode_without_tuples(payload)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError) as error:
            raise DecodeError(f"it is not a MessagePack message ({error})") from error
        if not isinstance(message, self._only):
            raise DecodeError(f"it is not a MessagePack message (it is {type(message).__name__})")
        return message

    def _place_of_error(self, message: Any, path: str, depth: int = 0) -> str:
        """Return where in a message the first object is that cannot be sent, and its type; else ``path``."""
        if depth == _DEEPEST_PATH:
            return f"{path}[...]"
        items: Iterable[tuple[Any, Any]] = ()
        if isinstance(message, dict):
            items = message.items()
        elif isinstance(message, (list, tuple)):
            items = enumerate(message)
        for key, value in items:
            inner = f"{path}[{key!r:.60}]"
            if not self._can_be_sent(key):
                return f"the key of {inner} ({type(key).__qualname__})"
            if not self._can_be_sent(value):
                return self._place_of_error(value, inner, depth + 1)
        return f"{path} ({type(message).__qualname__})"

    def _can_be_sent(self, part: Any) -> bool:
        try:
            self._packers.pack(part)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return False
        return True


_DEEPEST_PATH = 20
_SMALL = 512
"""Bytes of a payload in which tuples as keys do no harm."""


_LARGE_MAP_WITH_TUPLE = re.compile(rb"(?s)\xde..[\x90-\x9f\xdc\xdd]|\xdf....[\x90-\x9f\xdc\xdd]")
"""A map with more than 15 keys, of which the first one is a tuple."""


def _may_hold_large_map(payload: bytes) -> bool:
    """Return whether there may be a map with more than 15 keys: those begin with one of two bytes."""
    return b"\xde" in payload or b"\xdf" in payload


def _decode_without_tuples(payload: bytes) -> Any:
    """Decode, but refuse tuples as keys: their hashes can be made to collide, and take seconds then."""
    return msgpack.unpackb(payload, strict_map_key=False, timestamp=3)


def _extension(code: int, data: memoryview) -> msgpack.ExtType:
    return msgpack.ExtType(code, bytes(data))


class _Packers(threading.local):
    """A packer for each thread: it keeps its buffer, and no two threads may use one at once."""

    def __init__(self, default: Callable[[Any], Any] | None) -> None:
        self.pack = msgpack.Packer(default=default).pack
