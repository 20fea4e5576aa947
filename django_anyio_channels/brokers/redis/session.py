"""One session with a Redis server or a cluster, from connect to disconnect."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any
from uuid import uuid4

import anyio
import hiredis

from ...core.events import Event
from ...core.exceptions import ChannelLayerError, ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.event_stream import EventStream
from .address import Address
from .cluster.discovery import ClusterSeeds
from .cluster.routing import ClusterConnections
from .keys import base_key, bindings_key, companion_key
from .packets import CommandExecutor, encode_command, is_redirection, translate_error
from .peers import Peers
from .queues import Queues
from .sentinel import Sentinels
from .server import SingleServer
from .subscriptions import SubscriptionObserver, Subscriptions

_KEYS_AT_ONCE = 1000
_SPECIAL = re.compile(rb"[*?\[\]\\^-]")
"""What a glob gives a meaning."""
_PRUNINGS = 4
"""Of unused queues in a probe interval."""


class Session:
    """What a layer is connected to, what is subscribed there, and the readers of queues while it lasts.

    It ends when a connection does. A new session finds the servers that have taken over.
    """

    def __init__(
        self,
        location: Address | Sentinels | ClusterSeeds,
        probe_interval: float,
        queues: Queues,
        peers: Peers,
        unconsumed: list[Event[bytes]],
        observer: SubscriptionObserver | None = None,
    ) -> None:
        """``queues`` and ``peers`` outlast sessions; ``unconsumed`` are the events that the last one left."""
        self.error: ListenerClosed | None = ListenerClosed(f"{location} is not connected yet")
        """Why it has not begun, or has ended."""
        node = uuid4().hex
        self._topology: SingleServer | ClusterConnections
        if isinstance(location, ClusterSeeds):
            self._topology = ClusterConnections(location, probe_interval, self, node)
        else:
            self._topology = SingleServer(location, probe_interval, self, node)
        self.publish_command = self._topology.publish_command
        self.executor = self._topology.executor
        self.peers = peers
        self.subscriptions = Subscriptions(
            self._topology.pubsub,
            peers.confirmed,
            observer,
            unconsumed,
            sharded=self._topology.sharded,
            database=self._topology.database,
        )
        self.received_push = self.subscriptions.receive
        self.resubscribed = self.subscriptions.report_gap
        self._probe_interval = probe_interval
        self._queues = queues
        self._log = RateLimitedLogger()
        self._opening = anyio.CancelScope()
        self._opened = False
        self._pruning: asyncio.TimerHandle

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`, also if `close` is called meanwhile."""
        try:
            with self._opening:
                await self._topology.open()
                if self._opening.cancel_called:  # too late: a step that has its answer is not cancelled
                    with anyio.CancelScope(shield=True):
                        await self._topology.close()
                else:
                    self._begin()
            if not self._opened:
                raise ListenerClosed(f"{self._topology.address} was disconnected while it connected")
        except ListenerClosed as error:
            self.subscriptions.end(error)
            raise

    def _begin(self) -> None:
        self.error = None
        self._opened = True
        self._prune_later()
        self._queues.start(self)
        self.peers.start(self, self._topology.hash_tags())

    async def close(self, error: ListenerClosed) -> list[Event[bytes]]:
        """Close the session, gracefully if it is still up. Returns events that were received but not consumed."""
        if not self._opened:
            self._opening.cancel()
            self.subscriptions.end(error)
            return self.subscriptions.events.unconsumed()
        graceful = self.error is None
        if graceful:
            self.error = error
            self._pruning.cancel()
            self.subscriptions.end(error)
            await self.peers.leave()
            await self._queues.close_gracefully(error)
        await self._topology.close()
        self.subscriptions.end(error)
        return [] if graceful else self.subscriptions.events.unconsumed()

    def abort(self, error: ListenerClosed) -> None:
        """End the session at once: nothing more can be had."""
        self.server_ended(error)
        self.listener_lost(error)

    def server_ended(self, error: ListenerClosed) -> None:
        if self._opened:
            self.error = self.error or self._named(error)
            self._pruning.cancel()
            self.peers.end()
            self._queues.end(self.error)

    def listener_lost(self, error: ListenerClosed) -> None:
        # Other masters of a cluster may go on; what they still send is left over for the next session.
        self.subscriptions.end(self._named(error))

    @property
    def events(self) -> EventStream:
        return self.subscriptions.events

    def _named(self, error: ListenerClosed) -> ListenerClosed:
        address, text = self._topology.address, str(error)
        return error if text.startswith(address) else ListenerClosed(f"{address}: {text}")

    def _prune_later(self) -> None:
        self._pruning = asyncio.get_running_loop().call_later(self._probe_interval / _PRUNINGS, self._prune)

    def _prune(self) -> None:
        self._queues.prune()
        self._prune_later()

    async def execute(self, key: bytes, *command: bytes | str | int) -> Any:
        """Execute one command about a key and return its reply. Raises what the server refuses."""
        return self.raise_for_error(await self.executor(key).execute(encode_command(*command)))

    async def publish(self, name: bytes, message: bytes) -> tuple[Any, Any]:
        """Publish; return the bindings of the group, and how many nodes received it. Both may be error replies.

        After an outage it waits until the other nodes are back.
        """
        if self.peers.waiting:
            await self.peers.wait()
        # A replica takes SPUBLISH, and delivers it to nobody else's subscribers; what is about a key it refuses.
        asks = self.peers.may_be_bound or self._topology.sharded
        executor = self.executor(name)
        bindings = executor.execute(encode_command("HGETALL", bindings_key(name))) if asks else None
        receivers = await executor.execute(encode_command(self.publish_command, self.subscriptions.tag + name, message))
        return ([] if bindings is None else await bindings), receivers

    def translate_error(self, reply: hiredis.ReplyError) -> Exception:
        """Return the exception for an error reply. The session ends if the server can serve nothing more."""
        if self._topology.sharded and is_redirection(reply):
            return ChannelLayerError(
                f"{self._topology.address} refuses: {reply}. The slot has been half way between two masters for "
                f"seconds: finish its migration, or repair the cluster with `redis-cli --cluster fix`"
            )
        error = translate_error(self._topology.address, reply)
        if isinstance(error, ListenerClosed):
            self.abort(error)
        return error

    def raise_for_error(self, reply: Any) -> Any:
        """Return a reply that is no error; otherwise raise it."""
        if isinstance(reply, hiredis.ReplyError):
            raise self.translate_error(reply)
        return reply

    def is_transient(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """Return True for a transient error (such as a slot migration), which is logged; the caller retries."""
        transient = self._topology.sharded and is_redirection(reply)
        if transient:
            self._log.write(logging.WARNING, "Readers of %s have to wait: %s", queue, self.translate_error(reply))
        return transient

    def companion_keys(self, what: str) -> list[bytes]:
        """Return a key of the scope for the server, or one for each master of a cluster.

        Each begins with the scope, or with a brace and the scope, as all keys do: users may have no right to others.
        """
        tags = (b"" if tag is None else b"{%b}" % tag for tag in self._topology.hash_tags())
        return [companion_key(self.peers.scope + tag, what) for tag in tags]

    async def keys(self, prefix: bytes, *types: str) -> list[bytes]:
        """Return the keys that begin with ``prefix``, and companions of such names, and hold one of these types."""
        executors = await self._topology.all_executors()
        return [key for each in executors for type_ in types for key in await self._scan(each, prefix, type_)]

    async def _scan(self, executor: CommandExecutor, prefix: bytes, type_: str) -> list[bytes]:
        pattern = b"*%b*" % _SPECIAL.sub(rb"\\\g<0>", prefix)
        found: list[bytes] = []
        cursor = b"0"
        while True:
            command = encode_command("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_AT_ONCE, "TYPE", type_)
            cursor, keys = self.raise_for_error(await executor.execute(command))
            found.extend(key for key in keys if base_key(key).startswith(prefix))
            if cursor == b"0":
                return found
