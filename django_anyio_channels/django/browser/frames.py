"""The frames between browsers and `ResumableConsumer`, which ``docs/reference/protocol.rst`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..messages.group_message import GroupMessage, position_of
from ..messages.ready_frames import FRAME

VERSION = 1

NO_POSITION = "-"
"""What a browser keeps as its position where there is no history, so that it learns of what it may have missed."""

_Group = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.\-]{1,99}\Z")]
_Position = Annotated[str, Meta(max_length=256)]
_Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class Hello(Struct, tag_field="type", tag="hello"):
    """The first one of a client."""

    version: int
    token: Annotated[str, Meta(max_length=8192)] | None = None


class Join(Struct, tag_field="type", tag="join"):
    """A client wants the messages of a group, from a position on or with the last ones."""

    group: _Group
    since: _Position | None = None
    last: _Count = 0


class Leave(Struct, tag_field="type", tag="leave"):
    """A client wants them no more."""

    group: _Group


class FromClient(Struct, tag_field="type", tag="message"):
    """A client has a message for the application."""

    message: Any
    group: _Group | None = None


class Ping(Struct, tag_field="type", tag="ping"):
    """A client asks whether the connection is alive."""


decode = msgspec.json.Decoder(Hello | Join | Leave | FromClient | Ping).decode
"""Raises `msgspec.MsgspecError`, or `RecursionError`, for what is no frame of a client."""


def encode(kind: str, **content: Any) -> str:
    """Return a frame for a client. Bytes in it become Base64, and what is no number becomes null.

    Raises `TypeError` for objects that JSON cannot represent.
    """
    return msgspec.json.encode({"type": kind, **content}).decode()


def encode_message(message: Mapping[str, Any], content: Any, group: str | None) -> str:
    """Return the frame for a message that came through a group."""
    return encode("message", group=group, position=position_of(message), message=content)


def group_of(message: Mapping[str, Any], groups: Mapping[str, Any]) -> str | None:
    """Return through which of these groups a message came; None if that is unknown.

    Where there is no history, it is the message's own ``group``, or the only group.
    """
    if isinstance(message, GroupMessage):
        return message.group
    named = message.get("group")
    if isinstance(named, str) and named in groups:
        return named
    return next(iter(groups)) if len(groups) == 1 else None


def content_of(message: Mapping[str, Any]) -> Any:
    """Return what a client gets of a message of the type ``group.message``, or of a ready frame: JSON, if it is."""
    if message["type"] != FRAME:
        return message.get("message")
    text = message.get("text")
    if text is None:
        return message.get("bytes")
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
