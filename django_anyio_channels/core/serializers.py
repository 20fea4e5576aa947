"""Objects to bytes and back. Nothing here can execute what a payload contains."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import msgpack
import msgspec

from .exceptions import DecodeError, PayloadTooLarge


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

    Integers reach from -2**63 to 2**64-1. What would come back as something else (a set, a UUID, a datetime) or not
    at all is refused at the sender with `TypeError`. With ``only``, a payload that holds another type is an error.
    """

    # msgpack refuses what msgspec would silently turn into a str or a list; msgspec decodes twice as fast.
    def __init__(self, only: type | None = None) -> None:
        self._packers = _Packers()
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(only or Any, ext_hook=_extension)
        self._decode = decoder.decode

    def encode(self, message: Any) -> bytes:
        try:
            return self._packers.pack(message)  # type: ignore[no-any-return]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(
                f"This message cannot be sent: {error}. Messages may hold str, bytes, int (64 bit), float, bool, "
                f"None, lists and dicts; convert other objects first"
            ) from error

    def decode(self, payload: bytes) -> Any:
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError, TypeError) as error:
            raise DecodeError(f"it is not a MessagePack message ({error})") from error


def _extension(code: int, data: memoryview) -> msgpack.ExtType:
    return msgpack.ExtType(code, bytes(data))


class _Packers(threading.local):
    """A packer for each thread: it keeps its buffer, and no two threads may use one at once."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer().pack
