"""What the nodes of one scope say to each other on their channel: that they are here, and that queues are bound.

A node subscribes to the nodes' channel once the subscriptions of its last session are restored, and then publishes an
empty message there, on which all count how many they are (``PUBSUB NUMSUB``). So does one that leaves.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import anyio
import hiredis

from ...core.exceptions import ListenerClosed
from ..common.peers import PeerBarrier
from .keys import bindings_marker, nodes_channel
from .packets import encode_command
from .scripts import MARK
from .subscriptions import SubscribedSession, count_subscribers, number_of

_RESTORED_SECONDS = 1.0
"""After which a session does not wait for its subscriptions any more."""
_RETURN_SECONDS = 3.0
"""For which `Peers.wait` waits: some nodes may be gone for good."""
_CONFIRM_SECONDS = 2.0
_LEAVE_SECONDS = 0.1

_SLACK_SECONDS = 60.0
"""For which a node looks for bindings longer than it has to: the mark is renewed before its announcement is."""

_COUNT = b"count"
"""A message that says nothing: its publisher wants to know how many receive it."""
_ANNOUNCEMENT = re.compile(rb"bound ([0-9]{1,15}) (.+)", re.DOTALL)


class Peers:
    """The other nodes of a scope, remembered over the sessions of a layer; at each master of a cluster."""

    def __init__(self) -> None:
        self.scope = b""
        self.unscoped = True
        """Whether no scope was set."""
        self._barriers: dict[bytes, PeerBarrier] = {}
        """One for each nodes' channel."""
        self._missing: set[tuple[bool, bytes]] = set()
        """What was subscribed to in the last session and has not been restored."""
        self._joined = False
        self._timer: asyncio.TimerHandle | None = None
        self._bound_until = 0.0
        """Up to when groups of the scope may have bindings, as far as this node has learned in this session."""
        self._read_marker = False
        self._session: SubscribedSession | None = None

    def start(self, session: SubscribedSession, hash_tags: list[bytes | None]) -> None:
        """Begin a session; ``hash_tags`` are one of each master's."""
        self._session = session
        self._joined = False
        self._bound_until = 0.0
        self._read_marker = False
        channels = [nodes_channel(self.scope, tag) for tag in hash_tags]
        self._barriers = {name: self._barriers.get(name) or PeerBarrier(_RETURN_SECONDS) for name in channels}
        for barrier in self._barriers.values():
            barrier.start()
        if self._missing:
            self._timer = asyncio.get_running_loop().call_later(_RESTORED_SECONDS, self._join)
        else:
            self._join()

    def end(self) -> None:
        """The session has ended."""
        if self._session is None:
            return
        self._missing = self._session.subscriptions.names() | (set() if self._joined else self._missing)
        self._session = None
        if self._timer is not None:
            self._timer.cancel()
        for barrier in self._barriers.values():
            barrier.end()

    async def leave(self) -> None:
        """End the session gracefully: have the others count how many are left."""
        session = self._session
        self.end()
        if session is not None and self._joined:
            with suppress(ListenerClosed):
                left = [session.subscriptions.unwatch(channel) for channel in self._barriers]
                await asyncio.wait(left, timeout=_LEAVE_SECONDS)
                self._announce(session)

    def confirmed(self, pattern: bool, name: bytes) -> None:
        """The server has answered for a subscription: perhaps the last one that is to be restored."""
        if not self._joined:
            self._missing.discard((pattern, name))
            if not self._missing:
                self._join()

    def _join(self) -> None:
        session = self._session
        if session is None or self._joined:
            return
        self._joined = True
        watching = [
            session.subscriptions.watch(channel, partial(self._on_message, session, channel))
            for channel in self._barriers
        ]
        asyncio.gather(*watching).add_done_callback(partial(self._watching, session))

    def _watching(self, session: SubscribedSession, replies: asyncio.Future[list[Any]]) -> None:
        # If an ACL refuses the channel, no more than one node is ever counted, and `publish` waits for none.
        if replies.exception() is None and session is self._session:
            self._announce(session)
            if all(isinstance(reply, list) for reply in replies.result()):
                marker = bindings_marker(self.scope)
                reply = session.executor(marker).execute(encode_command("PTTL", marker))
                reply.add_done_callback(partial(self._received_marker, session))

    def _announce(self, session: SubscribedSession) -> None:
        for channel in self._barriers:
            self._publish(session, channel, b"")

    def _publish(self, session: SubscribedSession, channel: bytes, message: bytes) -> asyncio.Future[Any]:
        name = session.subscriptions.wire_name(channel)
        return session.executor(channel).execute(encode_command(session.publish_command, name, message))

    def _on_message(self, session: SubscribedSession, channel: bytes, message: bytes) -> None:
        if session is not self._session:
            return
        announcement = _ANNOUNCEMENT.fullmatch(message)
        if not message:
            count_subscribers(session, channel).add_done_callback(partial(self._counted, session, channel))
        elif announcement and announcement[2].startswith(channel):
            self._extend(int(announcement[1]))
            self._publish(session, announcement[2], b"")

    @property
    def waiting(self) -> bool:
        """Whether other nodes may still be on their way back."""
        for barrier in self._barriers.values():  # noqa: SIM110 - a generator costs more, and each publish asks
            if barrier.waiting:
                return True
        return False

    async def wait(self) -> None:
        """Wait until the nodes that were there before an outage are back."""
        for barrier in self._barriers.values():
            await barrier.wait()

    def _counted(self, session: SubscribedSession, channel: bytes, reply: asyncio.Future[Any]) -> None:
        if session is not self._session or reply.exception() is not None:
            return
        count = number_of(reply.result())
        if count is not None:
            self._barriers[channel].update(count)
        else:
            published = self._publish(session, channel, _COUNT)
            published.add_done_callback(partial(self._counted, session, channel))

    @property
    def may_be_bound(self) -> bool:
        """Whether a group may have bindings; a node without a scope may publish to the groups of any."""
        return self.unscoped or not self._read_marker or self._bound_until > monotonic()

    async def announce_binding(self, session: SubscribedSession, lifetime: int) -> None:
        """Return when every node of the scope looks for bindings, for so many milliseconds at least.

        Call after binding. Raises what the server refuses. A node that cannot be reached is waited for two seconds: it
        is silent, and so about to end its session.
        """
        marker = bindings_marker(self.scope)
        # First the mark, for nodes that only now begin a session.
        for state in ("bound", "announced"):
            reply = await MARK.run(session.executor(marker), [marker], state, lifetime)
            if isinstance(reply, hiredis.ReplyError):
                raise session.translate_error(reply)
            if not reply:
                return
            if state == "bound":
                await asyncio.gather(*(self._announce_bound(session, name, 2 * lifetime) for name in self._barriers))

    async def purge(self, session: SubscribedSession, prefix: bytes) -> None:
        """Remove the mark, if all names of the scope begin with ``prefix``. Call before the bindings are removed."""
        if self.scope.startswith(prefix):
            marker = bindings_marker(self.scope)
            await session.executor(marker).execute(encode_command("DEL", marker))

    async def _announce_bound(self, session: SubscribedSession, channel: bytes, lifetime: int) -> None:
        reply_channel = b"%b:%b" % (channel, uuid4().hex.encode())
        confirmations = asyncio.Semaphore(0)
        watching = session.subscriptions.watch(reply_channel, lambda message: confirmations.release())
        try:
            await watching
            name, announcement = session.subscriptions.wire_name(channel), b"bound %d %b" % (lifetime, reply_channel)
            command = encode_command(session.publish_command, name, announcement)
            published = await session.executor(channel).execute(command)
            # Those who subscribe between these two have seen the mark.
            nodes = number_of(await count_subscribers(session, channel))
            if nodes != 0 and isinstance(published, hiredis.ReplyError):
                raise session.translate_error(published)  # they would not look for the binding
            with anyio.move_on_after(_CONFIRM_SECONDS):
                receivers = number_of(published) or 0
                for _ in range(receivers if nodes is None else min(nodes, receivers)):
                    await confirmations.acquire()
        finally:
            with suppress(ListenerClosed):
                session.subscriptions.unwatch(reply_channel)

    def _received_marker(self, session: SubscribedSession, reply: asyncio.Future[Any]) -> None:
        if session is self._session and reply.exception() is None and isinstance(reply.result(), int):
            self._extend(reply.result())
            self._read_marker = True

    def _extend(self, milliseconds: int) -> None:
        if milliseconds > 0:
            self._bound_until = max(self._bound_until, monotonic() + milliseconds / 1000 + _SLACK_SECONDS)
