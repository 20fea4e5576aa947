"""Objects to bytes and back. Nothing here can execute what a payload contains."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import msgpack
import msgspec

from .exceptions import DecodeError, MissingDriver, PayloadTooLarge


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


class EncryptedSerializer:
    """Encrypts and signs what another serializer writes, with Fernet (https://github.com/fernet/spec).

    ``keys`` are strings or bytes of any length. The first one encrypts, all of them decrypt: to rotate, put the new
    key in front, and take the old one away when every process has the new one.
    """

    def __init__(self, inner: Serializer, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence) or not keys:
            raise ValueError("symmetric_encryption_keys must be a non-empty list of keys, not a single key")
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError as error:
            raise MissingDriver(
                "Encryption needs the cryptography package: pip install django-anyio-channels[encryption]"
            ) from error
        self._inner = inner
        self._invalid_token = InvalidToken
        self._fernet = MultiFernet([Fernet(_fernet_key(key)) for key in keys])
        self._decrypted: tuple[bytes, bytes] = (b"", b"")

    def encode(self, message: Any) -> bytes:
        return self._fernet.encrypt(self._inner.encode(message))

    def decode(self, payload: bytes) -> Any:
        # All readers of one event hold the same bytes object, one after the other: decrypt it once.
        last_payload, plain = self._decrypted
        if payload is not last_payload:
            try:
                plain = self._fernet.decrypt(payload)
            except self._invalid_token:
                raise DecodeError("none of symmetric_encryption_keys decrypts it") from None
            self._decrypted = (payload, plain)
        return self._inner.decode(plain)


def _fernet_key(key: str | bytes) -> bytes:
    if not isinstance(key, (str, bytes)) or not key:
        raise ValueError("Each of symmetric_encryption_keys must be a non-empty str or bytes")
    secret = key.encode() if isinstance(key, str) else key
    return base64.urlsafe_b64encode(hashlib.sha256(secret).digest())
