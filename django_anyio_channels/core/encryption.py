"""Encryption of payloads for the one place that they go to (Fernet, https://github.com/fernet/spec)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from time import time
from typing import Literal, NamedTuple

import msgspec

from .exceptions import DecodeError, MissingDriver

Kind = Literal["group", "queue", "presence"]

CLOCK_SKEW = 30.0
"""Seconds by which the clocks of two hosts may differ."""


class _Head(NamedTuple):
    """What is encrypted and signed together with a payload, and compared when it is decrypted."""

    kind: str
    names: list[str]
    sent: float
    """Seconds since the epoch, on the sender's clock."""
    lifetime: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Head).decode


class Encryption:
    """Encrypts payloads for a group, a queue or a record of presence, and decrypts what came from there in time.

    ``keys`` are strings or bytes of any length. The first one encrypts, all of them decrypt: to rotate, put the new
    key in front, and take the old one away when every process has the new one.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence) or not keys:
            raise ValueError("symmetric_encryption_keys must be a non-empty list of keys, not a single key")
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError as error:
            raise MissingDriver(
                "Encryption needs the cryptography package: pip install django-anyio-channels[encryption]"
            ) from error
        self._invalid_token = InvalidToken
        self._fernet = MultiFernet([Fernet(_fernet_key(key)) for key in keys])

    def encrypt(self, payload: bytes, kind: Kind, *names: str, lifetime: float) -> bytes:
        """Encrypt a payload for one or more names of a kind, for ``lifetime`` seconds from now on."""
        head = _encode((kind, names, time(), lifetime))
        return self._fernet.encrypt(b"%b%b%b" % (len(head).to_bytes(4, "big"), head, payload))

    def decrypt(self, token: bytes, kind: Kind, name: str, *, late: float = 0.0) -> bytes:
        """Return the payload of what came from a name of a kind, at most ``late`` seconds after its lifetime.

        Raises `DecodeError` for what was not encrypted with these keys, for this place, or in this time.
        """
        return self.decrypt_with_time(token, kind, name, late=late)[0]

    def decrypt_with_time(self, token: bytes, kind: Kind, name: str, *, late: float = 0.0) -> tuple[bytes, float]:
        """`decrypt`, and when it was sent, in seconds since the epoch by the sender's clock."""
        try:
            plain = self._fernet.decrypt(token)
        except self._invalid_token:
            raise DecodeError("none of symmetric_encryption_keys decrypts it") from None
        end = 4 + int.from_bytes(plain[:4], "big")
        try:
            head = _decode(plain[4:end])
        except msgspec.MsgspecError:
            raise DecodeError("another version, or another program, encrypted it") from None
        if head.kind != kind or name not in head.names:
            raise DecodeError(f"it was encrypted for {head.kind} {', '.join(head.names)}, and copied to {kind} {name}")
        _check_time(time() - head.sent, head.lifetime + late)
        return plain[end:], head.sent


def _check_time(age: float, lifetime: float) -> None:
    if age > lifetime + CLOCK_SKEW:
        raise DecodeError(f"it is {age:.0f} s old and was for {lifetime:g} s: a copy, or the clocks of hosts differ")
    if age < -CLOCK_SKEW:
        raise DecodeError(f"it comes from {-age:.0f} s in the future: the clocks of hosts differ")


def _fernet_key(key: str | bytes) -> bytes:
    if not isinstance(key, (str, bytes)) or not key:
        raise ValueError("Each of symmetric_encryption_keys must be a non-empty str or bytes")
    secret = key.encode() if isinstance(key, str) else key
    return base64.urlsafe_b64encode(hashlib.sha256(secret).digest())
