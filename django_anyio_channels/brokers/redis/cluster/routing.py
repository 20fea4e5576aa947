"""The masters of a Redis Cluster: which has which slot, and how commands and subscriptions follow a slot that moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import hiredis

from ....core.exceptions import ListenerClosed
from ..connection import Wire, pack
from ..keys import SLOTS, slot_of
from ..server import Server
from .discovery import ClusterAddress, Node

_ATTEMPTS = 100
_PAUSE = 0.05
"""Seconds between two attempts: not all masters hear of a move at the same time."""

_GRACE = 0.05
"""Seconds for which the first message waits that finds its slot moved: whoever listens has to move there, too."""

_ASKING = pack("ASKING")
_ROLE = pack("ROLE")


class Masters:
    """Two connections to each master."""

    def __init__(
        self,
        address: ClusterAddress,
        probe_interval: float,
        on_push: Callable[[list[bytes], Wire], None],
        on_end: Callable[[Server, ListenerClosed], None],
        on_deaf: Callable[[ListenerClosed], None],
    ) -> None:
        """``on_end`` and ``on_deaf`` as in `Server.open`, for each master."""
        self.servers: dict[Node, Server] = {}
        self.on_probe: Callable[[], None] = _nothing_to_do
        """Called by `Server.on_probe` of one of them."""
        self._address = address
        self._probe_interval = probe_interval
        self._on_push = on_push
        self._on_end = on_end
        self._on_deaf = on_deaf
        self._commanding: list[Server] = []
        self._listening: list[Server] = []
        """For each slot who has it. Subscriptions and commands find out by themselves."""
        self._subscribed: dict[bytes, tuple[Wire, asyncio.Future[Any]]] = {}
        """Over which connection each name was subscribed to last, and the server's answer."""
        self._connecting = asyncio.Lock()
        self._following: set[asyncio.Task[Any]] = set()
        self._closed = False

    # ---- from connect to disconnect -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to all of them. Raises `ListenerClosed`."""
        ranges = await self._address.ask_for_masters()
        nodes = list(dict.fromkeys(node for _, _, node in ranges))
        for opened in await asyncio.gather(*map(self._open_server, nodes), return_exceptions=True):
            if isinstance(opened, BaseException):
                raise opened
        unserved = SLOTS - sum(last - first + 1 for first, last, _ in ranges)
        if unserved:
            raise ListenerClosed(
                f"{self._address}: {unserved} slots of the cluster are served by nobody. "
                f"Give them to a master with `CLUSTER ADDSLOTS`, or wait for a failover"
            )
        for first, last, node in sorted(ranges):
            self._commanding += [self.servers[node]] * (last - first + 1)
        self._listening = list(self._commanding)
        self._commanding[0].on_probe = lambda: self.on_probe()

    def abort(self) -> None:
        """Drop all connections."""
        for server in self.servers.values():
            server.abort()

    async def close(self, dead: set[Server]) -> None:
        """Close all connections in peace, but those to servers that are ``dead``."""
        self._closed = True
        for task in self._following:
            task.cancel()
        servers = self.servers.values()
        await asyncio.gather(*(each.last_words() if each in dead else each.close() for each in servers))

    async def _open_server(self, node: Node) -> None:
        server = Server(self._address.of_node(node), self._probe_interval, self._on_push)
        await server.open(partial(self._on_end, server), self._on_deaf)
        if self._closed:
            server.abort()
            raise ListenerClosed(f"{self._address} was disconnected")
        self.servers[node] = server

    async def _server_at(self, node: Node) -> Server:
        async with self._connecting:
            if node not in self.servers:
                await self._open_server(node)
            return self.servers[node]

    # ---- slots --------------------------------------------------------------------------------------------------

    def tags(self) -> list[bytes]:
        """For each master what in braces leads to it, in every program that knows the same owners of the slots."""
        masters, found = set(self._commanding), dict[Server, bytes]()
        numbers = count()
        while len(found) < len(masters):
            tag = b"%d" % next(numbers)
            found.setdefault(self._commanding[slot_of(tag)], tag)
        return list(found.values())

    async def all(self) -> list[Wire]:
        """A connection to each master that has slots by now. Raises `ListenerClosed`."""
        nodes = dict.fromkeys(node for _, _, node in await self._address.ask_for_masters())
        return [(await self._server_at(node)).commands for node in nodes]

    def wire(self, slot: int, listening: bool) -> Wire:
        """The connection to the master that has a slot, as far as it is known."""
        return self._listening[slot].listener if listening else self._commanding[slot].commands

    def subscribe(self, name: bytes, wire: Wire, command: bytes) -> asyncio.Future[Any]:
        """Send a packed ``SSUBSCRIBE``."""
        answer = wire.ask(command)
        self._subscribed[name] = wire, answer
        return answer

    def unsubscribe(self, name: bytes, command: bytes) -> asyncio.Future[Any]:
        """Send a packed ``SUNSUBSCRIBE``; where the slot has moved away, there is nothing to leave."""
        wire, _ = self._subscribed.pop(name)
        return wire.leave(command)

    def has_lost(self, name: bytes, wire: Wire) -> bool:
        """Whether a ``sunsubscribe`` that was pushed takes away what is subscribed to, and is no answer of ours."""
        subscribed, answer = self._subscribed.get(name, (None, None))
        return subscribed is wire and answer is not None and answer.done()

    # ---- slots that move ----------------------------------------------------------------------------------------

    async def follow(self, name: bytes, listening: bool, command: bytes, reply: Any) -> Any:
        """Send a command again, to where its slot is now; returns the last reply. Raises `ListenerClosed`."""
        slot = slot_of(name)
        for _ in range(_ATTEMPTS):
            word, _, where = str(reply).partition(" ")
            server = (self._listening if listening else self._commanding)[slot]
            if word != "TRYAGAIN":
                server = await self._server_at(self._address.read_node(where.partition(" ")[2]))
            if word == "MOVED":
                await self._hand_over(slot, listening, server)
            if listening:
                if name not in self._subscribed:
                    return None  # given up meanwhile
                reply = await self.subscribe(name, server.listener, command)
            elif word == "ASK":
                _, reply = await server.commands.ask(_ASKING + command, replies=2)
            else:
                reply = await server.commands.ask(command)
            if not is_redirection(reply):
                break
            await asyncio.sleep(_PAUSE)
        return reply

    def follow_soon(self, name: bytes, listening: bool, command: bytes, reply: Any) -> asyncio.Task[Any]:
        """`follow`, as a task that `close` cancels."""
        task = asyncio.create_task(self.follow(name, listening, command, reply))
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return task

    async def _hand_over(self, slot: int, listening: bool, server: Server) -> None:
        owners = self._listening if listening else self._commanding
        former = owners[slot]
        if former is server:
            return
        role = await former.commands.ask(_ROLE)
        if isinstance(role, list) and role[0] != b"master":
            # A replica has taken over. All who listen must be there before anything is said: that takes a new life.
            raise ListenerClosed(f"{former.address} is no master any more")
        if not listening:
            await asyncio.sleep(_GRACE)
        owners[slot] = server


class Route:
    """The way to the master that has a name, whichever it is by now; speaks as a `Wire` does."""

    __slots__ = ("_listening", "_masters", "_name", "_on_failure")

    def __init__(
        self, masters: Masters, on_failure: Callable[[ListenerClosed], None], listening: bool, name: bytes
    ) -> None:
        """``on_failure`` is told if the master that has the name by now cannot be reached."""
        self._masters = masters
        self._on_failure = on_failure
        self._listening = listening
        self._name = name

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed command. The future gives the reply of the master that has the slot."""
        wire = self._masters.wire(slot_of(self._name), self._listening)
        answer = self._masters.subscribe(self._name, wire, command) if self._listening else wire.ask(command)
        outcome: asyncio.Future[Any] = answer.get_loop().create_future()
        answer.add_done_callback(partial(self._answered, command, outcome))
        return outcome

    def tell(self, command: bytes) -> None:
        """Send a packed command whose reply is of no interest."""
        self.ask(command)

    def leave(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed ``SUNSUBSCRIBE``."""
        return self._masters.unsubscribe(self._name, command)

    def _answered(self, command: bytes, outcome: asyncio.Future[Any], answer: asyncio.Future[Any]) -> None:
        if answer.exception() is None and is_redirection(answer.result()):
            task = self._masters.follow_soon(self._name, self._listening, command, answer.result())
            task.add_done_callback(partial(self._followed, outcome))
        else:
            _settle(outcome, answer, answer.exception())

    def _followed(self, outcome: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
        error = ListenerClosed("The cluster was disconnected") if task.cancelled() else task.exception()
        if isinstance(error, ListenerClosed):
            self._on_failure(error)
        _settle(outcome, task, error)


def _settle(outcome: asyncio.Future[Any], done: asyncio.Future[Any], error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(done.result())
    else:
        outcome.set_exception(error)
        # Whoever was cancelled meanwhile will not fetch it.
        outcome.exception()


def is_redirection(reply: Any) -> bool:
    """Whether a node says that another one has the slot, or that it has it only in part at the moment."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN "))


def _nothing_to_do() -> None:
    """Until there is something."""
