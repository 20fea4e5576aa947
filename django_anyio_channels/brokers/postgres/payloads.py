"""Bytes as the payloads of NOTIFY, and names as its channels.

A payload is text of at most 7999 bytes in the server's encoding, without NUL, and of several equal ones for the same
channel in one transaction the server keeps one. So every payload carries a number, and what is too long is cut into
parts, which must be sent in one transaction: the server then delivers them together and in order.

    kind, 6 digits of a number, body                        one message in one payload
    kind, 6 digits of a number, 4 index, 4 count, body      one of its parts

All digits are hexadecimal. The body is either the bytes read as Latin-1 (NUL as U+0100), which for MessagePack of
mostly ASCII text adds 5 % where base64 adds 33 % and takes a third of its time, or base64 where that is shorter.
"""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from functools import lru_cache
from hashlib import blake2b

from ...core.exceptions import DecodeError, PayloadTooLarge

LARGEST_PAYLOAD = 7999
LONGEST_NAME = 63

_TEXT, _BASE64, _TEXT_PART, _BASE64_PART = ".=,+"
_WHOLE_HEADER = 7
_PART_HEADER = 15
_PART = LARGEST_PAYLOAD - _PART_HEADER
_MOST_PARTS = 0xFFFF
_MOST_TEXT = (LARGEST_PAYLOAD - _WHOLE_HEADER) // 2
"""A message of so many bytes fits into one payload, whatever bytes they are."""

_NUL = "\u0100"
_DIGEST_MARK = "dac#"

_numbers = itertools.count()


def channel_name(name: str) -> str:
    """The NOTIFY channel of a group: its name where that is short ASCII, else a digest.

    NOTIFY refuses names over 63 bytes, LISTEN cuts them, and other than ASCII depends on the database's encoding.
    """
    if name and len(name) <= LONGEST_NAME and name.isascii() and "\0" not in name and not name.startswith(_DIGEST_MARK):
        return name
    return _DIGEST_MARK + blake2b(name.encode(), digest_size=24).hexdigest()


@lru_cache(maxsize=1000)
def wake_channel(queue: bytes) -> str:
    """The NOTIFY channel that wakes the readers of a queue."""
    return f"{_DIGEST_MARK}q{blake2b(queue, digest_size=24).hexdigest()}"


def has_unicode(server_encoding: str) -> bool:
    """Whether a database of this encoding, to which payloads are converted, takes any character."""
    return server_encoding in ("UTF8", "SQL_ASCII")


def split(message: bytes, *, unicode: bool = True) -> list[str]:
    """The payloads of a message; ``unicode`` says whether the database's encoding has all of Unicode."""
    number = f"{next(_numbers) & 0xFFFFFF:06x}"
    if unicode:
        if len(message) <= _MOST_TEXT:
            return [f"{_TEXT}{number}{message.decode('latin-1').replace(chr(0), _NUL)}"]
        text = message.decode("latin-1").replace("\0", _NUL).encode()
        if len(text) <= LARGEST_PAYLOAD - _WHOLE_HEADER:
            return [f"{_TEXT}{number}{text.decode()}"]
        if len(text) <= len(message) * 4 / 3:
            return _number_parts(_TEXT_PART, number, _cut(text), message)
    text = b64encode(message)
    if len(text) <= LARGEST_PAYLOAD - _WHOLE_HEADER:
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
    if len(parts) > _MOST_PARTS:
        raise PayloadTooLarge(
            f"PostgreSQL carries up to {_MOST_PARTS * _PART * 3 // 4} bytes; this message has {len(message)}"
        )
    return [f"{kind}{number}{index:04x}{len(parts):04x}{part.decode()}" for index, part in enumerate(parts)]


class Joiner:
    """Puts the messages of one channel together again."""

    __slots__ = ("_number", "_parts")

    def __init__(self) -> None:
        self._number = ""
        self._parts: list[str] = []

    def add(self, payload: str) -> bytes | None:
        """The message that this payload completes, or None. Raises `DecodeError` for what `split` did not make."""
        kind = payload[:1]
        if kind == _TEXT:
            return _from_text(payload[_WHOLE_HEADER:])
        if kind == _BASE64:
            return _from_base64(payload[_WHOLE_HEADER:])
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
        return _from_text(joined) if kind == _TEXT_PART else _from_base64(joined)


def _from_text(text: str) -> bytes:
    try:
        return text.replace(_NUL, "\0").encode("latin-1")
    except UnicodeEncodeError:
        raise DecodeError("text with characters that are no bytes") from None


def _from_base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise DecodeError("text that is not base64") from None
