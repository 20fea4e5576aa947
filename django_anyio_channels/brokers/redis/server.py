"""The two connections to one Redis server: one for commands, and one that is subscribed (``SUBSCRIBE``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import hiredis

from ...core.exceptions import ListenerClosed
from .address import Address
from .connection import Connection, open_connection
from .keys import probe_channel
from .packets import encode_command
from .sentinel import Sentinels

_DRAIN_SECONDS = 0.1
_ROLE_CHECKS = 4
"""Checks of the role in a probe interval in which commands are executed."""
_IDLE_ROLE_CHECKS = 16
"""After so many of these in which none were, the role is checked all the same."""
_PING = encode_command("PING")
_ROLE = encode_command("ROLE")


class ServerObserver(Protocol):
    """What the connections to a server report to."""

    def received_push(self, push: list[bytes], connection: Connection) -> None:
        """Called with each message that the server pushes."""

    def server_ended(self, error: ListenerClosed) -> None:
        """Called once, when the first of the connections has ended.

        The other one may still bring what is under way, for a moment.
        """

    def listener_lost(self, error: ListenerClosed) -> None:
        """Called when no more messages will come, unless the connections were closed."""


class ServerConnections:
    """Both connections to one server, and the probes that notice when it is silent or no master any more.

    While a node is idle, it publishes every now and then to a channel of its own: the reply shows that one connection
    works, the message that comes back shows it of the other.
    """

    def __init__(
        self, address: Address, probe_interval: float, observer: ServerObserver, node: str, tag: bytes | None = None
    ) -> None:
        """``tag`` is the hash tag of a slot that a master of a cluster has."""
        self.address = address
        self.commands: Connection
        self.listener: Connection
        self.error: ListenerClosed | None = None
        """Why the first of the connections ended, or that they were closed."""
        self._probe_interval = probe_interval
        self._observer = observer
        self._opened = False
        self._loop = asyncio.get_running_loop()
        channel, sharded = probe_channel(node, tag), "S" if tag is not None else ""
        self._subscribe_to_probes = encode_command(f"{sharded}SUBSCRIBE", channel)
        self._probe = encode_command(f"{sharded}PUBLISH", channel, b"")
        self._receives_probes = False
        self._probing: asyncio.Future[Any] | None = None
        self._role_timer: asyncio.TimerHandle
        self._executed = 0
        """Of the connection for commands, at the last check of the role; probes count as executed before."""
        self._idle_checks = 0

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`."""
        self.received_push: Callable[[list[bytes], Connection], None] = self._observer.received_push
        opened: list[Connection] = []
        try:
            self.commands, (role,) = await open_connection(self.address, _ROLE, observer=self)
            opened.append(self.commands)
            self._check_role(role)
            self.listener, (subscribed,) = await open_connection(
                self.address, self._subscribe_to_probes, observer=self, subscribes=True
            )
            opened.append(self.listener)
            self.commands.require_open()
        except BaseException:
            for connection in opened:
                connection.abort()
            raise
        self._receives_probes = not isinstance(subscribed, hiredis.ReplyError)
        for connection in opened:
            connection.watch(self._probe_interval, self._send_probe)
        self._check_role_later()
        self._opened = True

    def connection_ended(self, connection: Connection, reason: str) -> None:
        if not self._opened:
            return
        if self.error is None:
            self.error = ListenerClosed(reason)
            self._stop_probing()
            self._observer.server_ended(self.error)
            other = self.listener if connection is self.commands else self.commands
            self._loop.call_later(_DRAIN_SECONDS, other.end, reason)
        if connection is self.listener:
            self._observer.listener_lost(self.error)

    async def close(self) -> None:
        """Close both connections gracefully, or, after `ServerObserver.server_ended`, when nothing more comes."""
        self._stop_probing()
        if self.error is None:
            self._opened = False
            await asyncio.gather(self.commands.close(), self.listener.close())
        else:
            await asyncio.wait([self.commands.lost, self.listener.lost], timeout=2 * _DRAIN_SECONDS)
            self.abort()

    def abort(self) -> None:
        """Drop both connections."""
        self._stop_probing()
        self._opened = False
        self.commands.abort()
        self.listener.abort()

    def _send_probe(self) -> None:
        if self._probing is None or self._probing.done():
            self._executed += 1
            self._probing = self.commands.execute(self._probe)
            self._probing.add_done_callback(self._probed)

    def _probed(self, reply: asyncio.Future[Any]) -> None:
        if reply.exception() is not None:
            return
        # No subscriber: the slot has moved away, and perhaps back, which ended the subscription.
        delivered = self._receives_probes and reply.result() != 0 and not isinstance(reply.result(), hiredis.ReplyError)
        if not delivered:
            with suppress(ListenerClosed):
                self.listener.execute(_PING)

    def _check_role_later(self) -> None:
        self._executed = self.commands.executed
        self._role_timer = self._loop.call_later(self._probe_interval / _ROLE_CHECKS, self._role_check)

    def _role_check(self) -> None:
        # A master that was demoted still accepts publishes, and delivers them to nobody else's subscribers. An idle
        # node receives through it what is published at the new master.
        self._idle_checks += 1
        if self.commands.executed > self._executed or self._idle_checks >= _IDLE_ROLE_CHECKS:
            self._idle_checks = 0
            self.commands.execute(_ROLE).add_done_callback(self._received_role)
        self._check_role_later()

    def _received_role(self, reply: asyncio.Future[Any]) -> None:
        if reply.exception() is None:
            try:
                self._check_role(reply.result())
            except ListenerClosed as error:
                self.commands.end(str(error).removeprefix(f"{self.address} "))

    def _check_role(self, role: Any) -> None:
        if isinstance(role, list) and role[0] == b"sentinel":
            name = role[1][0].decode() if role[1] else "mymaster"
            raise ListenerClosed(
                f"{self.address} is a Sentinel: write redis+sentinel://{self.address.host}:{self.address.port}/{name}"
            )
        if isinstance(role, list) and role[0] != b"master":
            raise ListenerClosed(
                f"{self.address} is a read-only replica: what is published there does not reach the others. "
                f"Name its master, the Sentinels (redis+sentinel://host:26379/name) or the cluster (redis+cluster://)"
            )

    def _stop_probing(self) -> None:
        self._role_timer.cancel()
        for connection in (self.commands, self.listener):
            connection.unwatch()


class SingleServer:
    """The topology of a single server: everything is there."""

    publish_command = "PUBLISH"
    sharded = False

    def __init__(
        self, location: Address | Sentinels, probe_interval: float, observer: ServerObserver, node: str
    ) -> None:
        self.address: str = str(location)
        self.database: int = location.database
        self._find_server = location.find_server
        self._new_connections = partial(ServerConnections, probe_interval=probe_interval, observer=observer, node=node)
        self._connections: ServerConnections

    async def open(self) -> None:
        """Connect to the server that is in charge now. Raises `ListenerClosed`."""
        server = await self._find_server()
        self._connections = self._new_connections(server)
        try:
            await self._connections.open()
        except ListenerClosed as error:
            if str(server) == self.address:
                raise
            raise ListenerClosed(f"{self.address}: {error}") from error

    async def close(self) -> None:
        await self._connections.close()

    def executor(self, key: bytes) -> Connection:
        return self._connections.commands

    def pubsub(self, name: bytes) -> Connection:
        return self._connections.listener

    def hash_tags(self) -> list[bytes | None]:
        return [None]

    async def all_executors(self) -> list[Connection]:
        return [self._connections.commands]
