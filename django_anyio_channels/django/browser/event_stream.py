"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): groups as an HTTP response."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import msgspec

from ...core.exceptions import ChannelLayerError, ListenerClosed, MissingDriver, NotSupported

try:
    from channels.layers import get_channel_layer
    from django.core.exceptions import BadRequest, ImproperlyConfigured
    from django.core.handlers.asgi import ASGIRequest
    from django.http import HttpRequest, StreamingHttpResponse
except ModuleNotFoundError as error:
    raise MissingDriver(
        "EventStreamResponse needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from ..messages.group_message import position_of
from ..messages.ready_frames import FRAME
from ..names import GROUP_NAME
from ..presence.group import CHANGED
from ..resume import resume
from .conversation import stay_seconds
from .frames import NO_POSITION, VERSION, content_of, encode, encode_message, group_of

logger = logging.getLogger("django_anyio_channels")

MAX_GROUPS = 100
MAX_MEMBERS = 1000
"""A client that joins a group with more members does not get their list."""
MAX_ID = 16 * 1024
"""Characters of a ``Last-Event-ID``."""

COMMENT = b":\n\n"

_LINES = re.compile(r"\r\n|\r|\n")

Rendered = str | tuple[str, str] | None
Render = Callable[[dict[str, Any]], Rendered | Awaitable[Rendered]]


class EventStreamResponse(StreamingHttpResponse):
    """What is sent to groups, as server-sent events, until the client leaves.

    For views under ASGI, asynchronous or not. The view decides who may have the groups. ``render`` makes the data of an
    event of each message: a string, a pair of the event's name and a string, or None to leave it out; it may be a
    coroutine function. By default the data is the message as JSON, or the text of a ready frame (`broadcast`).

    The ``id`` is the position, or the positions of several groups; a browser that comes back sends it as
    ``Last-Event-ID`` and gets what it missed. If that is lost, an event called ``missed`` has ``{"group": ...}`` as its
    data. One that comes for the first time gets the ``last`` messages of each group. While nothing is sent, a comment
    is, every ``heartbeat`` seconds. A browser comes back after a random time of at most ``retry`` seconds. With
    ``frames`` the data are the frames of ``docs/reference/protocol.rst``, as ``client.js`` wants them.

    With ``member``, such as ``str(user.pk)``, the client is one of that member of each group while the stream is open;
    ``meta`` is what the others may know of it, see `AnyioChannelLayer.group_add`. Frames have the members, too.

    Raises ``ImproperlyConfigured`` under WSGI, and ``BadRequest`` for names that no group has.
    """

    def __init__(
        self,
        request: HttpRequest,
        groups: Iterable[str],
        *,
        render: Render | None = None,
        last: int = 0,
        heartbeat: float = 15.0,
        retry: float = 5.0,
        frames: bool = False,
        member: str | None = None,
        meta: dict[str, Any] | None = None,
        layer: Any = None,
        **options: Any,
    ) -> None:
        # Django REST framework wraps requests.
        if not isinstance(getattr(request, "_request", request), ASGIRequest):
            raise ImproperlyConfigured(
                "EventStreamResponse needs ASGI: under WSGI each client would occupy a thread for as long as it stays. "
                "Serve the project with Daphne, Uvicorn, Hypercorn or Granian"
            )
        if render is not None and frames:
            raise TypeError("EventStreamResponse() takes render or frames, not both")
        if meta is not None and member is None:
            raise TypeError("EventStreamResponse() got meta without member: a meta describes a member")
        stream = _EventStream(
            get_channel_layer() if layer is None else layer,
            _checked(groups),
            request.headers.get("Last-Event-ID", ""),
            _Frames() if frames else _Events(render),
            last,
            heartbeat,
            {} if member is None else {"member": member, "meta": meta, "watch": frames},
        )
        super().__init__(stream.events(retry), content_type="text/event-stream; charset=utf-8", **options)
        self.headers.setdefault("Cache-Control", "no-cache, no-store, no-transform")
        self.headers.setdefault("X-Accel-Buffering", "no")  # nginx
        # Else GZipMiddleware makes each event a gzip file of its own, of which browsers read the first one only.
        self.headers.setdefault("Content-Encoding", "identity")

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Django's own would leave the end of the stream to the garbage collector when the client leaves.
        return self._iterator  # type: ignore[attr-defined, no-any-return]


def _checked(groups: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys([groups] if isinstance(groups, str) else groups))
    if not names or len(names) > MAX_GROUPS:
        raise BadRequest(f"A stream of events has 1 to {MAX_GROUPS} groups, not {len(names)}")
    for name in names:
        if not isinstance(name, str) or len(name) > 99 or not GROUP_NAME.fullmatch(name):
            raise BadRequest(f"{str(name)[:100]!r} is not a valid group name")
    return names


class _EventStream:
    """One client's stream."""

    def __init__(
        self,
        layer: Any,
        groups: list[str],
        last_id: str,
        form: _Events | _Frames,
        last: int,
        heartbeat: float,
        presence: dict[str, Any],
    ) -> None:
        self.channel_layer = layer
        self.channel_name = ""
        self._groups = groups
        self._positions = read_positions(last_id, groups)
        self._form = form
        self._last = last
        self._heartbeat = heartbeat
        self._presence = presence

    async def events(self, retry: float) -> AsyncIterator[bytes]:
        """Yield the bytes of the response."""
        layer = self.channel_layer
        yield b"retry: %d\n\n" % (1 + random.random() * retry * 1000)
        ends = monotonic() + stay_seconds(layer)
        self.channel_name = await layer.new_channel("events")
        joined = []
        try:
            yield self._event(self._form.opened())
            for group in self._groups:
                joined.append(group)
                came = await resume(self, group, self._positions.get(group), self._last)
                if came.position is not None or not came.has_history:
                    self._positions[group] = came.position or NO_POSITION
                members = {"members": await self._join_presence(group)} if self._presence else {}
                position = self._positions.get(group)
                for event in self._form.joined(group, position, came.complete, came.has_history, **members):
                    yield self._event(event)
            while monotonic() < ends:
                try:
                    message = await asyncio.wait_for(layer.receive(self.channel_name), self._heartbeat)
                except TimeoutError:
                    yield COMMENT
                    continue
                if message["type"] == "group.missed":
                    if message.get("group") is not None:
                        return  # the browser comes back with its positions
                    yield self._event(self._form.missed(None))
                    continue
                if message["type"] == CHANGED:
                    for event in presence_frames(message):
                        yield self._event(event)
                    continue
                yield await self._rendered(message)
        except ChannelLayerError as error:
            logger.warning("A stream of events ended, and its browser comes back: %s", error)
        finally:
            for group in joined:
                with suppress(ListenerClosed):
                    await layer.group_discard(group, self.channel_name)

    async def _join_presence(self, group: str) -> dict[str, list[dict[str, Any]]] | None:
        """Be there as the member; return the metas of all members, or None if there are too many or no presence."""
        layer = self.channel_layer
        if not hasattr(layer, "group_members"):
            return None
        try:
            await layer.group_add(group, self.channel_name, **self._presence)
            members = await layer.group_members(group)
        except NotSupported:
            return None
        return {name: each.metas for name, each in members.items()} if len(members) <= MAX_MEMBERS else None

    async def _rendered(self, message: dict[str, Any]) -> bytes:
        group, position = group_of(message, self._positions), position_of(message)
        if group is not None and position is not None:
            self._positions[group] = position
        event = self._form.message(message, group)
        return self._event(await event if inspect.isawaitable(event) else event)

    def _event(self, event: Rendered) -> bytes:
        """Return the bytes of an event; without data a browser only keeps the ``id``."""
        lines = [f"id: {write_positions(self._positions, self._groups)}"] if self._positions else []
        name, data = ("", event) if isinstance(event, str) else event or ("", None)
        if name:
            if _LINES.search(name):
                raise ValueError(f"The name of an event is one line, not {name!r}")
            lines.append(f"event: {name}")
        if data is not None:
            lines += [f"data: {line}" for line in _LINES.split(data)]
        return "\n".join([*lines, "", ""]).encode() if lines else COMMENT


class _Events:
    """Events for any client that reads server-sent events."""

    def __init__(self, render: Render | None) -> None:
        self.render: Render = render or _plain

    def opened(self) -> Rendered:
        return None

    def joined(self, group: str, position: str | None, complete: bool, history: bool, **members: Any) -> list[Rendered]:
        return [None if complete else self.missed(group)]

    def missed(self, group: str | None) -> Rendered:
        return "missed", msgspec.json.encode({"group": group}).decode()

    def message(self, message: dict[str, Any], group: str | None) -> Rendered | Awaitable[Rendered]:
        return self.render(message)


class _Frames:
    """The frames of the protocol, as `ResumableConsumer` sends them."""

    def opened(self) -> Rendered:
        return encode("hello", version=VERSION)

    def joined(self, group: str, position: str | None, complete: bool, history: bool, **members: Any) -> list[Rendered]:
        return [encode("joined", group=group, position=position, complete=complete, history=history, **members)]

    def missed(self, group: str | None) -> Rendered:
        return encode("missed", group=group)

    def message(self, message: dict[str, Any], group: str | None) -> Rendered:
        return encode_message(message, content_of(message), group)


def presence_frames(message: dict[str, Any]) -> Iterator[str]:
    """Yield a frame for each change of the members of a group."""
    for event in ("joined", "updated"):
        for member, found in message[event].items():
            yield encode("presence", group=message["group"], event=event, member=member, metas=found["metas"])
    for member in message["left"]:
        yield encode("presence", group=message["group"], event="left", member=member)


def _plain(message: dict[str, Any]) -> Rendered:
    text = message.get("text") if message["type"] == FRAME else None
    return text if isinstance(text, str) else msgspec.json.encode(message).decode()


def read_positions(last_id: str, groups: list[str]) -> dict[str, str]:
    """Return the positions that an ``id`` has for these groups; what it has for others, or wrongly, is left out."""
    if len(last_id) > MAX_ID:
        return {}
    if "=" not in last_id:
        return {groups[0]: last_id} if last_id and len(groups) == 1 else {}
    pairs = (entry.partition("=") for entry in last_id.split(","))
    return {group: position for group, _, position in pairs if group in groups and position}


def write_positions(positions: Mapping[str, str], groups: list[str]) -> str:
    """Return the ``id``: the position in the only group, or ``group=position,group=position``."""
    if len(groups) == 1:
        return positions[groups[0]]
    return ",".join(f"{group}={position}" for group, position in positions.items())
