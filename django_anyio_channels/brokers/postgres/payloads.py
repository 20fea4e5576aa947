"""Messages as payloads of NOTIFY, and names as its channels.

A payload is text of at most 7999 bytes in the server's encoding, without NUL. Of several equal payloads for one channel
in one transaction the server keeps one. So every payload has a number, and a longer message is cut into parts. They
must be sent in one transaction: the server then delivers them together and in order.

    kind, 6 digits of a number, body                        one message in one payload
    kind, 6 digits of a number, 4 index, 4 count, body      one of its parts

All digits are hexadecimal. The body is either the bytes read as Latin-1 (NUL as U+0100), which for MessagePack of
mostly ASCII text adds 5 % where base64 adds 33 % and takes a third of its time, or base64 where that is shorter.

A message of a group with a history is kept as text, too: kind and body, however long. The server notifies of it by

    position, space, id of the message before, line feed, kind, body

and leaves kind and body away where they would be too long: then it is to be read from the history.
"""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from ...core.exceptions import DecodeError, PayloadTooLarge

MAX_PAYLOAD = 7999
MAX_NAME = 63

_TEXT, _BASE64, _TEXT_PART, _BASE64_PART = ".=,+"
_WHOLE_HEADER = 7
_PART_HEADER = 15
_PART = MAX_PAYLOAD - _PART_HEADER
_MAX_PARTS = 0xFFFF
_MAX_TEXT = (MAX_PAYLOAD - _WHOLE_HEADER) // 2
"""A message of so many bytes fits into one payload, whatever bytes they are."""

_NUL = "\u0100"
_DIGEST_MARK = "dac#"

_numbers = itertools.count()


def channel_name(name: str) -> str:
    """Return the NOTIFY channel of a group: its name where that is short ASCII, else a digest.

    NOTIFY refuses names over 63 bytes, LISTEN cuts them, and other than ASCII depends on the database's encoding.
    """
    if name and len(name) <= MAX_NAME and name.isascii() and "\0" not in name and not name.startswith(_DIGEST_MARK):
        return name
    return _digest("", name.encode())


@lru_cache(maxsize=1000)
def wake_channel(queue: bytes) -> str:
    """Return the NOTIFY channel that wakes the readers of a queue."""
    return _digest("q", queue)


def nodes_channel(scope: str) -> str:
    """Return the NOTIFY channel on which the nodes of a scope announce themselves."""
    return _digest("n", scope.encode())


def lock_key(channel: str) -> int:
    """Return the key of the advisory lock that those who listen to a channel share."""
    return int.from_bytes(blake2b(channel.encode(), digest_size=8).digest(), "big", signed=True)


def _digest(kind: str, name: bytes) -> str:
    return f"{_DIGEST_MARK}{kind}{blake2b(name, digest_size=24).hexdigest()}"


def encode(message: bytes, *, server_encoding: str = "UTF8") -> list[str]:
    """Return the payloads of a message, which the server converts to the encoding of the database.

    Raises `PayloadTooLarge` for a message of more than 65,535 parts.
    """
    number = f"{next(_numbers) & 0xFFFFFF:06x}"
    if server_encoding in ("UTF8", "SQL_ASCII"):  # they have every character
        if len(message) <= _MAX_TEXT:
            return [f"{_TEXT}{number}{message.decode('latin-1').replace(chr(0), _NUL)}"]
        text = message.decode("latin-1").replace("\0", _NUL).encode()
        if len(text) <= MAX_PAYLOAD - _WHOLE_HEADER:
            return [f"{_TEXT}{number}{text.decode()}"]
        if len(text) <= len(message) * 4 / 3:
            return _number_parts(_TEXT_PART, number, _cut(text), message)
    text = b64encode(message)
    if len(text) <= MAX_PAYLOAD - _WHOLE_HEADER:
        return [f"{_BASE64}{number}{text.decode()}"]
    return _number_parts(_BASE64_PART, number, [text[at : at + _PART] for at in range(0, len(text), _PART)], message)


def _cut(text: bytes) -> list[bytes]:
    parts, start = [], 0
    while start < len(text):
        end = start + _PART
        while end < len(text) and text[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        parts.append(text[start:end])
        start = end
    return parts


def _number_parts(kind: str, number: str, parts: list[bytes], message: bytes) -> list[str]:
    if len(parts) > _MAX_PARTS:
        raise PayloadTooLarge(
            f"PostgreSQL carries up to {_MAX_PARTS * _PART * 3 // 4} bytes; this message has {len(message)}"
        )
    return [f"{kind}{number}{index:04x}{len(parts):04x}{part.decode()}" for index, part in enumerate(parts)]


def encode_entry(message: bytes, *, server_encoding: str) -> str:
    """Return a message as it is kept in a history."""
    if server_encoding in ("UTF8", "SQL_ASCII"):
        text = message.decode("latin-1").replace("\0", _NUL)
        if len(message) <= _MAX_TEXT or len(text.encode()) <= len(message) * 4 / 3:
            return _TEXT + text
    return _BASE64 + b64encode(message).decode()


def decode_entry(payload: str) -> bytes:
    """Return the message. Raises `DecodeError` for what `encode_entry` did not make."""
    if payload[:1] not in (_TEXT, _BASE64):
        raise DecodeError("a message of an unknown kind")
    return _decode(payload[0], payload[1:])


class Receiver(Protocol):
    """Takes the payloads of one channel."""

    def add(self, payload: str) -> bytes | None:
        """Return a message that is complete now, for those who subscribe to the channel.

        Raises `DecodeError` for a payload of another program.
        """


class PayloadAssembler:
    """Decodes the payloads of one channel, and assembles messages of several parts."""

    __slots__ = ("_number", "_parts")

    def __init__(self) -> None:
        self._number = ""
        self._parts: list[str] = []

    def add(self, payload: str) -> bytes | None:
        """Return the message that this payload completes, or None.

        Raises `DecodeError` for a payload that `encode` did not make, and for a part whose predecessor is missing.
        """
        kind = payload[:1]
        if kind in (_TEXT, _BASE64):
            return _decode(kind, payload[_WHOLE_HEADER:])
        if kind not in (_TEXT_PART, _BASE64_PART):
            raise DecodeError("another program notifies this channel too")
        number = payload[:_WHOLE_HEADER]
        try:
            index, count = int(payload[_WHOLE_HEADER:11], 16), int(payload[11:_PART_HEADER], 16)
        except ValueError:
            raise DecodeError("a part of a message without its number") from None
        if index == 0:
            self._number, self._parts = number, []
        if number != self._number or index != len(self._parts):
            self._number, self._parts = "", []
            raise DecodeError("a part of a message whose beginning is missing")
        self._parts.append(payload[_PART_HEADER:])
        if len(self._parts) < count:
            return None
        joined = "".join(self._parts)
        self._number, self._parts = "", []
        return _decode(_TEXT if kind == _TEXT_PART else _BASE64, joined)


def _decode(kind: str, body: str) -> bytes:
    if kind == _TEXT:
        try:
            return body.replace(_NUL, "\0").encode("latin-1")
        except UnicodeEncodeError:
            raise DecodeError("text with characters that are not bytes") from None
    try:
        return b64decode(body, validate=True)
    except ValueError:
        raise DecodeError("text that is not base64") from None
