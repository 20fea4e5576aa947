"""One life of the layer in a Redis Cluster: sharded publish/subscribe, spread over the masters by the names' slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import anyio
import hiredis

from ..event import Event
from ..exceptions import ListenerClosed
from .redis_life import scan
from .redis_presence import NODES, Presence
from .redis_queues import Queues
from .redis_scripts import bindings, look_up_bindings
from .redis_server import Server, explain
from .redis_slots import SLOTS, ClusterAddress, Node, slot_of, tag_in
from .redis_subscriptions import Subscriptions
from .redis_wire import Wire, pack

_ROLE = pack("ROLE")
_REDIRECTIONS = 100
_TRY_AGAIN = 0.05


class Presences:
    """A `Presence` for each master, so that after an outage nobody talks to a room that is empty at one of them."""

    def __init__(self) -> None:
        self._all: dict[bytes, Presence] = {}

    @property
    def missing(self) -> bool:
        """Whether nodes may still be on their way back."""
        return any(each.missing for each in self._all.values())

    async def everybody(self) -> None:
        """Wait until those who were there before are back, at every master."""
        for each in self._all.values():
            await each.everybody()

    def begin(self, life: ClusterLife, slots: list[int]) -> None:
        """A life begins; ``slots`` are one of each master's."""
        names = [b"%b{%b}" % (NODES, tag_in(slot)) for slot in slots]
        self._all = {name: self._all.get(name) or Presence(name, sharded=True) for name in names}
        for name, each in self._all.items():
            each.begin(life.commands(name), life.subscriptions)

    def subscribed(self, pattern: bool, name: bytes) -> None:
        for each in self._all.values():
            each.subscribed(pattern, name)

    def count(self) -> None:
        for each in self._all.values():
            each.count()

    def end(self) -> None:
        for each in self._all.values():
            each.end()


class ClusterLife:
    """All masters of a cluster, as long as all of them live; a new life finds those who took over.

    Slots may move meanwhile: commands and subscriptions follow them. ``on_gap`` is told, with the seconds it took, when
    a subscription had to follow and something may have been missed.
    """

    publish_verb = "SPUBLISH"

    def __init__(
        self,
        address: ClusterAddress,
        probe_interval: float,
        queues: Queues,
        presences: Presences,
        on_gap: Callable[[float], None],
        left_over: list[Event[bytes]],
    ) -> None:
        self.error: ListenerClosed | None = ListenerClosed(f"{address} is not connected yet")
        self.presence = presences
        self.subscriptions = Subscriptions(partial(Route, self, True), left_over, sharded=True)
        self._on_gap = on_gap
        self._address = address
        self._probe_interval = probe_interval
        self._queues = queues
        self._servers: dict[Node, Server] = {}
        self._owners: list[Server] = []
        self._connecting = asyncio.Lock()
        self._dead: Server | None = None
        self._opening = anyio.CancelScope()
        self._open = False
        self._following: set[asyncio.Task[None]] = set()
        self._moved: set[bytes] = set()
        """Subscriptions that are on their way to another master."""
        self._moving_since = 0.0

    # ---- from connect to disconnect -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to every master. Raises `ListenerClosed`, also if `close` is called meanwhile."""
        try:
            with self._opening:
                await self._connect()
                self._begin()
            if not self._open:
                raise ListenerClosed(f"{self._address} was disconnected while it connected")
        except BaseException as error:
            for server in self._servers.values():
                server.abort()
            if isinstance(error, ListenerClosed):
                self.subscriptions.end(error)
            raise

    async def _connect(self) -> None:
        host, slots = await self._ask_for_slots()
        owners: dict[int, Server] = {}
        nodes: list[Node] = []
        for first, last, *serving in slots:
            found = [(str(node[0] or host.encode(), "ascii"), int(node[1])) for node in serving]
            nodes.extend(node for node in found if node not in nodes)
            server = await self._server_at(found[0])
            owners.update(dict.fromkeys(range(first, last + 1), server))
        self._address.learn(nodes)
        if len(owners) < SLOTS:
            raise ListenerClosed(
                f"{self._address}: {SLOTS - len(owners)} slots of the cluster are served by nobody. "
                f"Give them to a master with `CLUSTER ADDSLOTS`, or wait for a failover"
            )
        self._owners = [owners[slot] for slot in range(SLOTS)]

    async def _ask_for_slots(self) -> tuple[str, list[Any]]:
        for node in list(self._address.nodes):
            try:
                wire, (slots,) = await self._address.node(*node).open(_ignore, pack("CLUSTER", "SLOTS"))
            except ListenerClosed as error:
                self._address.avoid(node)
                last = error
                continue
            wire.abort()
            if isinstance(slots, hiredis.ReplyError):
                raise ListenerClosed(f"{self._address}: {slots}. If it is no cluster, write redis:// for it")
            return node[0], slots
        raise ListenerClosed(f"{self._address}: no node answers; the last one: {last}") from last

    async def _server_at(self, node: Node) -> Server:
        async with self._connecting:
            if node not in self._servers:
                server = Server(self._address.node(*node), self._probe_interval, self._receive)
                await server.open(partial(self._server_ended, server), self.subscriptions.end)
                self._servers[node] = server
                server.on_probe = partial(self._tidy, server)
            return self._servers[node]

    def _begin(self) -> None:
        if self._dead is not None:
            raise ListenerClosed(f"{self._address}: a master went away while the others were connected")
        self.error = None
        self._open = True
        self._queues.begin(self)
        self.presence.begin(self, [self._owners.index(server) for server in dict.fromkeys(self._owners)])
        self.subscriptions.on_confirmed = self.presence.subscribed

    async def close(self, error: ListenerClosed) -> list[Event[bytes]]:
        """End it, in peace where the master lives. Returns what came before it broke and was not fetched."""
        if not self._open:
            self._opening.cancel()
            self.subscriptions.end(error)
            return self.subscriptions.left_over()
        broken = self.error is not None
        if not broken:
            self.error = error
            self.presence.end()
            self.subscriptions.end(error)
            await self._queues.leave(error)
        for task in self._following:
            task.cancel()
        await asyncio.gather(
            *(server.last_words() if server is self._dead else server.close() for server in self._servers.values())
        )
        return self.subscriptions.left_over() if broken else []

    def _server_ended(self, server: Server, error: ListenerClosed) -> None:
        if self._dead is None:
            self._dead = server
        self._end(error)

    def _end(self, error: ListenerClosed) -> None:
        if self._open and self.error is None:
            self.error = error
            self.presence.end()
            self._queues.end(error)

    def _tidy(self, server: Server) -> None:
        if self._open:
            server.commands.ask(_ROLE).add_done_callback(partial(self._has_role, server))
            if server is self._owners[0]:
                self.presence.count()
                self._queues.tidy()

    def _has_role(self, server: Server, answer: asyncio.Future[Any]) -> None:
        # A master that was told to make room for a replica says so only if it is asked.
        if answer.exception() is None and isinstance(answer.result(), list) and answer.result()[0] != b"master":
            self._give_up(ListenerClosed(f"{server.address} is no master any more"))

    def _give_up(self, error: ListenerClosed) -> None:
        self._end(error)
        self.subscriptions.end(error)

    # ---- commands -----------------------------------------------------------------------------------------------

    def commands(self, key: bytes) -> Route:
        """The way for the commands about a key."""
        return Route(self, False, key)

    async def ask(self, about: bytes, *command: bytes | str | int) -> Any:
        """Send one command about a key and return its reply. Raises what the server refuses."""
        reply = await self.commands(about).ask(pack(*command))
        if isinstance(reply, hiredis.ReplyError):
            raise self.refusal(reply)
        return reply

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """The bindings of a group, and how many nodes heard a message to it."""
        bound = self.commands(bindings(name)).ask(look_up_bindings(name))
        reached = self.commands(name).ask(pack("SPUBLISH", name, message))
        return await bound, await reached

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""
        error = explain(str(self._address), reply)
        if isinstance(error, ListenerClosed):
            self._give_up(error)
        return error

    async def keys(self, start: bytes) -> list[bytes]:
        """The keys of queues, and of what belongs to them, that begin with ``start``."""
        return [key for server in set(self._owners) for key in await scan(server.commands, start, self.refusal)]

    # ---- slots that move ----------------------------------------------------------------------------------------

    def wire(self, slot: int, listening: bool) -> Wire:
        """The connection to the master that has a slot, as far as it is known."""
        server = self._owners[slot]
        return server.listener if listening else server.commands

    def follow(self, command: bytes, slot: int, listening: bool, reply: Any, outcome: asyncio.Future[Any]) -> None:
        """Send a command again to where the slot is now."""
        task = asyncio.get_running_loop().create_task(self._follow(command, slot, listening, reply, outcome))
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        task.add_done_callback(lambda done: outcome.cancel() if done.cancelled() else None)

    async def _follow(
        self, command: bytes, slot: int, listening: bool, reply: Any, outcome: asyncio.Future[Any]
    ) -> None:
        try:
            for _ in range(_REDIRECTIONS):
                word, _, where = str(reply).partition(" ")
                if word == "TRYAGAIN":
                    await asyncio.sleep(_TRY_AGAIN)
                    reply = await self.wire(slot, listening).ask(command)
                else:
                    number, _, address = where.partition(" ")
                    host, _, port = address.rpartition(":")
                    server = await self._server_at((host or self._address.nodes[0][0], int(port)))
                    wire = server.listener if listening else server.commands
                    if word == "ASK":
                        _, reply = await wire.ask(pack("ASKING") + command, replies=2)
                    else:
                        await self._hand_over(int(number), server)
                        reply = await wire.ask(command)
                if not is_redirection(reply):
                    break
            _settle(outcome, reply)
        except ListenerClosed as error:
            self._give_up(error)
            _settle(outcome, error)

    async def _hand_over(self, slot: int, server: Server) -> None:
        former, self._owners[slot] = self._owners[slot], server
        if former is not server:
            # If a replica has taken over, the subscribers have to move there before anything is said.
            answer = former.commands.ask(_ROLE)
            await asyncio.wait([answer])
            self._has_role(former, answer)
            if self.error is not None:
                raise self.error

    def _receive(self, push: list[bytes], wire: Wire) -> None:
        if push[0] != b"sunsubscribe":
            self.subscriptions.receive(push, wire)
        elif self.error is None:
            self._resubscribe(push[1])

    def _resubscribe(self, name: bytes) -> None:
        """The slot of a subscription has left its master."""
        answer = self.subscriptions.again(name)
        if answer is not None:
            if not self._moved:
                self._moving_since = monotonic()
            self._moved.add(name)
            answer.add_done_callback(partial(self._resubscribed, name))

    def _resubscribed(self, name: bytes, answer: asyncio.Future[Any]) -> None:
        self._moved.discard(name)
        if self.error is not None or answer.cancelled() or answer.exception() is not None:
            return  # the life is over
        if isinstance(answer.result(), hiredis.ReplyError):
            error = ListenerClosed(f"{self._address}: {answer.result()}")
            self._give_up(error)
        elif not self._moved:
            self._on_gap(monotonic() - self._moving_since)


class Route:
    """The way to the master that has a name, whichever it is by now; speaks as a `Wire` does."""

    __slots__ = ("_life", "_listening", "_slot")

    def __init__(self, life: ClusterLife, listening: bool, name: bytes) -> None:
        self._life = life
        self._listening = listening
        self._slot = slot_of(name)

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed command. The future gives the reply of the master that has the slot."""
        answer = self._life.wire(self._slot, self._listening).ask(command)
        outcome: asyncio.Future[Any] = answer.get_loop().create_future()
        answer.add_done_callback(partial(self._answered, command, outcome))
        return outcome

    def tell(self, command: bytes) -> None:
        """Send a packed command whose reply is of no interest."""
        self.ask(command)

    def leave(self, command: bytes) -> asyncio.Future[Any]:
        """Send ``SUNSUBSCRIBE``. Where the slot has moved away, there is nothing to leave."""
        return self._life.wire(self._slot, self._listening).leave(command)

    def _answered(self, command: bytes, outcome: asyncio.Future[Any], answer: asyncio.Future[Any]) -> None:
        error = answer.exception()
        if error is not None:
            _settle(outcome, error)
        elif is_redirection(answer.result()):
            self._life.follow(command, self._slot, self._listening, answer.result(), outcome)
        else:
            _settle(outcome, answer.result())


def is_redirection(reply: Any) -> bool:
    """Whether a node says that another one has the slot, or that it has it only in part at the moment."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN "))


def _settle(outcome: asyncio.Future[Any], result: Any) -> None:
    if outcome.done():
        return
    if isinstance(result, ListenerClosed):
        outcome.set_exception(result)
        # Whoever was cancelled meanwhile will not fetch it.
        outcome.exception()
    else:
        outcome.set_result(result)


def _ignore(push: list[bytes]) -> None:
    """Nothing is subscribed to on this connection."""
