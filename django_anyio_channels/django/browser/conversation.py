"""What one WebSocket's client and server have agreed on: the protocol's rules and limits, without input and output.

Both kinds of consumers use it. It calls the consumer's methods through ``do``, which awaits those of an asynchronous
consumer; for a synchronous one it awaits nothing, and `run` runs the coroutine where it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from math import inf
from random import uniform
from time import monotonic
from typing import Any

import msgspec

from ...core.exceptions import ChannelLayerError, ListenerClosed, NotSupported
from ..messages import position_of
from ..resume import TRY_AGAIN_LATER
from . import frames

logger = logging.getLogger("django_anyio_channels")

INVALID = 4400
UNAUTHORIZED = 4401
UNKNOWN_VERSION = 4406
TIMEOUT = 4408
TOO_MANY = 4429

NO_HELLO = {"type": "hello.missing"}
"""What a consumer gets when its client has sent no hello in time; no client can send it."""

REMEMBERED = 1000
"""Of how many groups it is known that the client has left them."""


def stay_seconds(layer: Any) -> float:
    """Return after how long a client is to come back: memberships end after ``group_expiry`` seconds without a word.

    It is random, so that clients that came at once don't come back at once.
    """
    return float(getattr(layer, "group_expiry", 86400)) * uniform(0.5, 0.9)


class Conversation:
    """The state of one client. ``consumer`` is that client's."""

    def __init__(self, consumer: Any, do: Callable[..., Awaitable[Any]]) -> None:
        self._consumer = consumer
        self._do = do
        self._is_greeted = False
        self.groups: dict[str, bool] = {}
        """The groups that the client is in, each with whether it is a member there."""
        self.has_history = False
        """Whether the client gets what it missed when it comes back."""
        self._left: dict[str, str | None] = {}
        """The groups that the client had left before; of those it is in again, with the last position it has."""
        self._joins: list[float] = []
        """When the last joins were."""
        self._ends = inf
        """When the client is to come back; a time of `time.monotonic`."""

    def limit(self, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Return ``receive`` with a limit: it returns `NO_HELLO` when the client has sent no hello in time."""
        deadline: float | None = None

        async def receive_in_time() -> Any:
            nonlocal deadline
            if self._is_greeted:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline) as waiting:
                    event = await receive()
            except TimeoutError:
                if waiting.expired():
                    return NO_HELLO
                raise
            if deadline is None:  # this was the event that opens the connection
                deadline = asyncio.get_running_loop().time() + self._consumer.hello_timeout
            return event

        return receive_in_time

    async def receive(self, text: str | None) -> None:
        """Handle a frame of the client."""
        await self._end_in_time()
        if text is None or len(text) > self._consumer.max_frame_size:
            await self._refuse(INVALID, "invalid", f"a frame is a text of {self._consumer.max_frame_size} characters")
        try:
            frame = frames.decode(text or "")
        except (msgspec.MsgspecError, RecursionError) as error:
            await self._refuse(INVALID, "invalid", str(error))
        if isinstance(frame, frames.Hello):
            await self._greet(frame)
        elif not self._is_greeted:
            await self._refuse(INVALID, "invalid", "the first frame must be of the type hello")
        elif isinstance(frame, frames.Join):
            await self._join(frame)
        elif isinstance(frame, frames.Leave):
            await self.leave(frame.group)
        elif isinstance(frame, frames.Ping):
            await self._send("ping")
        elif frame.group is not None and frame.group not in self.groups:
            await self.error("message", "not_joined", "join the group first", frame.group)
        else:
            await self._hand_over(frame)

    async def _hand_over(self, frame: frames.FromClient) -> None:
        try:
            await self._do(self._consumer.received, frame.message, frame.group)
        except ListenerClosed:
            await self._refuse_for_now()

    async def hello_missing(self) -> None:
        """Close the connection of a client that has sent no hello in time."""
        await self._refuse(TIMEOUT, "timeout", f"no hello came within {self._consumer.hello_timeout:g} s")

    async def _greet(self, hello: frames.Hello) -> None:
        if self._is_greeted:
            await self._refuse(INVALID, "invalid", "there is one hello for a connection")
        if hello.version != frames.VERSION:
            await self._refuse(UNKNOWN_VERSION, "version", f"the server speaks version {frames.VERSION}")
        if not await self._do(self._consumer.authenticate, hello.token):
            await self._refuse(UNAUTHORIZED, "unauthorized", "the token is not accepted")
        self._is_greeted = True
        await self._send("hello", version=frames.VERSION)

    async def _join(self, frame: frames.Join) -> None:
        consumer, group, now = self._consumer, frame.group, monotonic()
        self._joins = [time for time in self._joins if time > now - 60]
        if len(self._joins) >= consumer.joins_per_minute:
            await self._refuse(TOO_MANY, "too_many_joins", f"at most {consumer.joins_per_minute} a minute")
        self._joins.append(now)
        if group in self.groups:
            await self.error("join", "already_joined", "leave the group first", group)
        elif len(self.groups) >= consumer.max_groups:
            await self.error("join", "too_many_groups", f"at most {consumer.max_groups} for a connection", group)
        elif not await self._do(consumer.may_join, group):
            await self.error("join", "forbidden", "this group is not for you", group)
        else:
            await self._let_in(frame)

    async def _let_in(self, frame: frames.Join) -> None:
        consumer, group, now = self._consumer, frame.group, monotonic()
        self.groups[group] = False
        self._ends = min(self._ends, now + stay_seconds(consumer.channel_layer))
        try:
            came = await self._do(consumer.resume_group, group, frame.since, last=min(frame.last, consumer.max_last))
            self.has_history = came.has_history
            if group in self._left:
                self._left[group] = came.position
            presence = await self._join_presence(group)
        except ListenerClosed:
            await self._refuse_for_now()
        except ChannelLayerError as error:
            del self.groups[group]
            await self.error("join", "refused", type(error).__name__, group)
            return
        position = came.position if came.has_history else frames.NO_POSITION
        await self._send(
            "joined", group=group, position=position, complete=came.complete, history=came.has_history, **presence
        )

    async def _join_presence(self, group: str) -> dict[str, Any]:
        consumer = self._consumer
        found = await self._do(consumer.presence_of, group)
        if found is None:
            return {}
        member, meta = (found, None) if isinstance(found, str) else found
        unknown = {"member": member, "members": None}
        if not hasattr(consumer.channel_layer, "group_members"):
            return unknown
        try:
            members = await self._do(consumer.join_presence, group, member, meta)
        except NotSupported:
            return unknown
        self.groups[group] = True
        if len(members) > consumer.max_members:
            return unknown
        return {"member": member, "members": {name: each.metas for name, each in members.items()}}

    async def leave(self, group: str, code: str | None = None) -> None:
        """Take the client out of a group, with the reason if it did not ask for that."""
        if group in self.groups:
            is_member = self.groups.pop(group)
            self._left[group] = None
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]
            await self._do(self._consumer.leave_presence if is_member else self._consumer._discard, group)
        await self._send("left", group=group, **({} if code is None else {"code": code}))

    async def push(self, message: Any, content: Any) -> None:
        """Send what came through a group to the client, unless it has left the group, or has it already."""
        await self._end_in_time()
        group = frames.group_of(message, self.groups)
        if group is None or group in self.groups:
            position = position_of(message)
            if group in self._left and position is not None and group is not None:
                # What waited when the client left stands behind what it got when it came again.
                last = self._left[group]
                if last is not None and not self._consumer.channel_layer.is_after(position, last):
                    return
                self._left[group] = position
            await self._deliver(frames.encode_message(message, content, group))

    async def tell(self, content: Any) -> None:
        """Send ``content`` to this client alone."""
        await self._send("message", group=None, position=None, message=content)

    async def presence(self, event: dict[str, Any]) -> None:
        """Send a change of the members of a group to the client."""
        if event["group"] in self.groups:
            kind = event["type"].removeprefix("member.")
            metas = {} if kind == "left" else {"metas": event["metas"]}
            await self._send("presence", group=event["group"], event=kind, member=event["member"], **metas)

    async def missed(self) -> None:
        """Tell the client that the broker was away, and that messages of all groups may be missing here."""
        await self._send("missed", group=None)

    async def _end_in_time(self) -> None:
        if monotonic() > self._ends:
            await self._do(self._consumer._end, TRY_AGAIN_LATER)

    async def _send(self, kind: str, **content: Any) -> None:
        await self._deliver(frames.encode(kind, **content))

    async def _deliver(self, frame: str) -> None:
        try:
            await self._do(self._consumer.send, frame)
        except (OSError, RuntimeError) as gone:
            if type(gone) is RuntimeError:
                raise
            # ASGI has OSError for that, Daphne a kind of RuntimeError. The handler of the disconnect must run next.
            logger.debug("A client disconnected before it received its last messages: %r", gone)

    async def error(
        self, refused: str, code: str, reason: str, group: str | None, message_id: str | None = None
    ) -> None:
        """Tell the client which of its frames was refused, and why."""
        which = {} if message_id is None else {"id": message_id}
        await self._send("error", frame=refused, code=code, reason=reason, group=group, **which)

    async def _refuse_for_now(self) -> None:
        await self._refuse(TRY_AGAIN_LATER, "unavailable", "the server has no connection to its broker")

    async def _refuse(self, close_code: int, code: str, reason: str) -> None:
        """Close the WebSocket, and end the consumer: raises `StopConsumer`."""
        await self._send("error", frame=None, code=code, reason=reason, group=None)
        await self._do(self._consumer._end, close_code)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that awaits nothing."""
    with suppress(StopIteration):
        coroutine.send(None)
