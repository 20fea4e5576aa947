"""The masters of a Redis Cluster: which has which slot, and how commands and ``SSUBSCRIBE`` follow one that moves."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import Any, Protocol

import hiredis

from ....core.exceptions import ListenerClosed
from ...common.waiters import fail
from ..connection import Connection
from ..keys import SLOTS, hash_tag_for_slot, key_slot
from ..options import Node
from ..packets import encode_command, is_redirection
from ..server import ServerConnections, ServerObserver
from .discovery import ClusterSeeds

_ATTEMPTS = 100
_PAUSE = 0.05
"""Seconds between two attempts: not all masters learn of a move at the same time."""

_RESUBSCRIBE_SECONDS = 0.05
"""For which the first message waits that finds its slot moved: subscribers have to move there, too."""

_ASKING = encode_command("ASKING")
_ROLE = encode_command("ROLE")


class ClusterObserver(ServerObserver, Protocol):
    """What a cluster's connections report to."""

    def resubscribed(self, name: bytes, seconds: float) -> None:
        """Called when a subscription has followed its slot; for so many seconds it was not in effect."""

    def abort(self, error: ListenerClosed) -> None:
        """End the session."""


class ClusterConnections:
    """The topology of a cluster: two connections to each master."""

    publish_command = "SPUBLISH"
    sharded = True
    database = 0

    def __init__(self, seeds: ClusterSeeds, probe_interval: float, observer: ClusterObserver, node: str) -> None:
        self.address = str(seeds)
        self._seeds = seeds
        self._probe_interval = probe_interval
        self._observer = observer
        self.listener_lost = observer.listener_lost
        self._node = node
        self._servers: dict[Node, ServerConnections] = {}
        self._command_owners: list[ServerConnections] = []
        self._pubsub_owners: list[ServerConnections] = []
        """For each slot which server has it. Subscriptions and commands find out by themselves."""
        self._subscribed: dict[bytes, tuple[Connection, asyncio.Future[Any]]] = {}
        """Over which connection each name was subscribed to last, and the server's reply."""
        self._connecting = asyncio.Lock()
        self._following: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._broken = False

    # ---- from connect to disconnect -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to all masters. Raises `ListenerClosed`."""
        try:
            await self._open()
        except BaseException:
            for server in self._servers.values():
                server.abort()
            raise

    async def _open(self) -> None:
        ranges = await self._seeds.discover_masters()
        nodes = {node: first for first, _, node in ranges}
        opening = [self._open_server(node, slot) for node, slot in nodes.items()]
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(opened, BaseException):
                raise opened
        unserved = SLOTS - sum(last - first + 1 for first, last, _ in ranges)
        if unserved:
            raise ListenerClosed(
                f"{self.address}: {unserved} slots of the cluster are served by nobody. "
                f"Give them to a master with `CLUSTER ADDSLOTS`, or wait for a failover"
            )
        for server in self._servers.values():
            if server.error is not None:
                raise ListenerClosed(f"{server.address} went away while the other masters were connected")
        for first, last, node in sorted(ranges):
            self._command_owners += [self._servers[node]] * (last - first + 1)
        self._pubsub_owners = list(self._command_owners)

    async def close(self) -> None:
        self._closed = True
        for task in self._following:
            task.cancel()
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    async def _open_server(self, node: Node, slot: int) -> None:
        server = ServerConnections(
            self._seeds.address_of(node), self._probe_interval, self, self._node, hash_tag_for_slot(slot)
        )
        await server.open()
        if self._closed:
            server.abort()
            raise ListenerClosed(f"{self.address} was disconnected")
        self._servers[node] = server

    async def _server_at(self, node: Node, slot: int) -> ServerConnections:
        async with self._connecting:
            if node not in self._servers:
                await self._open_server(node, slot)
            return self._servers[node]

    # ---- what its servers report --------------------------------------------------------------------------------

    def received_push(self, push: list[bytes], connection: Connection) -> None:
        if push[0] == b"sunsubscribe":
            self._resubscribe(push[1], connection)
        else:
            self._observer.received_push(push, connection)

    def server_ended(self, error: ListenerClosed) -> None:
        self._broken = True
        self._observer.server_ended(error)

    # ---- slots --------------------------------------------------------------------------------------------------

    def executor(self, key: bytes) -> SlotRoute:
        return SlotRoute(self, False, key)

    def pubsub(self, name: bytes) -> SlotRoute:
        return SlotRoute(self, True, name)

    def hash_tags(self) -> list[bytes | None]:
        """Return for each master a hash tag, the same in every process that knows the same owners of the slots."""
        masters, found = set(self._command_owners), dict[ServerConnections, bytes | None]()
        number = 0
        while len(found) < len(masters):
            tag = b"%d" % number
            found.setdefault(self._command_owners[key_slot(tag)], tag)
            number += 1
        return list(found.values())

    async def all_executors(self) -> list[Connection]:
        """Return a connection to each master that has slots by now. Raises `ListenerClosed`."""
        nodes = {node: first for first, _, node in await self._seeds.discover_masters()}
        return [(await self._server_at(node, slot)).commands for node, slot in nodes.items()]

    def connection(self, slot: int, listening: bool) -> Connection:
        """Return the connection to the master that has a slot, as far as it is known."""
        return self._pubsub_owners[slot].listener if listening else self._command_owners[slot].commands

    def subscribe(self, name: bytes, connection: Connection, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded ``SSUBSCRIBE``."""
        reply = connection.execute(command)
        self._subscribed[name] = connection, reply
        return reply

    def unsubscribe(self, name: bytes, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded ``SUNSUBSCRIBE``; where the slot has moved away, there is nothing to unsubscribe from."""
        connection, _ = self._subscribed.pop(name)
        return connection.sunsubscribe(command)

    # ---- slots that move ----------------------------------------------------------------------------------------

    async def follow_redirect(self, name: bytes, listening: bool, command: bytes, reply: Any) -> Any:
        """Send a command again, to where its slot is now; return the last reply. Raises `ListenerClosed`."""
        slot = key_slot(name)
        for _ in range(_ATTEMPTS):
            word, _, where = str(reply).partition(" ")
            server = (self._pubsub_owners if listening else self._command_owners)[slot]
            if word != "TRYAGAIN":
                server = await self._server_at(self._seeds.read_node(where.partition(" ")[2]), slot)
            if word == "MOVED":
                await self._reassign_slot(slot, listening, server)
            if listening:
                if name not in self._subscribed:
                    return None  # unsubscribed meanwhile
                reply = await self.subscribe(name, server.listener, command)
            elif word == "ASK":
                _, reply = await server.commands.execute(_ASKING + command, replies=2)
            else:
                reply = await server.commands.execute(command)
            if not is_redirection(reply):
                break
            await asyncio.sleep(_PAUSE)
        return reply

    def schedule_redirect(
        self, name: bytes, listening: bool, command: bytes, reply: Any, outcome: asyncio.Future[Any]
    ) -> None:
        """`follow_redirect` in a task that `close` cancels. If it fails, so does the session."""

        def followed(task: asyncio.Task[Any]) -> None:
            self._following.discard(task)
            error = ListenerClosed("The cluster was disconnected") if task.cancelled() else task.exception()
            if isinstance(error, ListenerClosed):
                self._observer.abort(error)
            _settle(outcome, task, error)

        task = asyncio.create_task(self.follow_redirect(name, listening, command, reply))
        self._following.add(task)
        task.add_done_callback(followed)

    async def _reassign_slot(self, slot: int, listening: bool, server: ServerConnections) -> None:
        owners = self._pubsub_owners if listening else self._command_owners
        former = owners[slot]
        role = await former.commands.execute(_ROLE)
        if isinstance(role, list) and role[0] != b"master":
            # A replica has taken over. All subscribers must be there before anything is published: in a new session.
            raise ListenerClosed(f"{former.address} is no master any more")
        if not listening and former is not server:
            await asyncio.sleep(_RESUBSCRIBE_SECONDS)
        owners[slot] = server

    def _resubscribe(self, name: bytes, connection: Connection) -> None:
        """A server has ended a subscription: unless that is the answer to our own command, its slot has moved."""
        subscribed, reply = self._subscribed.get(name, (None, None))
        if subscribed is connection and reply and reply.done() and not self._broken:
            resubscribed = self.pubsub(name).execute(encode_command("SSUBSCRIBE", name))
            resubscribed.add_done_callback(partial(self._resubscribed, name, monotonic()))

    def _resubscribed(self, name: bytes, since: float, reply: asyncio.Future[Any]) -> None:
        if reply.exception() is not None:
            return  # the session has ended
        if isinstance(reply.result(), hiredis.ReplyError):
            text = f"{self.address}: {reply.result()}, in reply to the subscription to {name!r}"
            self._observer.abort(ListenerClosed(text))
        else:
            self._observer.resubscribed(name, monotonic() - since)


class SlotRoute:
    """The route to the master that has a name, whichever it is by now; used as a `Connection` is."""

    __slots__ = ("_cluster", "_listening", "_name")

    def __init__(self, cluster: ClusterConnections, listening: bool, name: bytes) -> None:
        self._cluster = cluster
        self._listening = listening
        self._name = name

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded command. The future gives the reply of the master that has the slot."""
        connection = self._cluster.connection(key_slot(self._name), self._listening)
        if self._listening:
            reply = self._cluster.subscribe(self._name, connection, command)
        else:
            reply = connection.execute(command)
        outcome: asyncio.Future[Any] = reply.get_loop().create_future()
        reply.add_done_callback(partial(self._replied, command, outcome))
        return outcome

    def sunsubscribe(self, command: bytes) -> asyncio.Future[Any]:
        return self._cluster.unsubscribe(self._name, command)

    def _replied(self, command: bytes, outcome: asyncio.Future[Any], reply: asyncio.Future[Any]) -> None:
        if reply.exception() is None and is_redirection(reply.result()):
            self._cluster.schedule_redirect(self._name, self._listening, command, reply.result(), outcome)
        else:
            _settle(outcome, reply, reply.exception())


def _settle(outcome: asyncio.Future[Any], done: asyncio.Future[Any], error: BaseException | None) -> None:
    if error is not None:
        fail(outcome, error)
    elif not outcome.done():
        outcome.set_result(done.result())
