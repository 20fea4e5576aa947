"""The nodes of a Redis Cluster: which are known, how to log in, and which master serves which slots (CLUSTER SLOTS)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import hiredis

from ....core.exceptions import ListenerClosed
from ....core.options import check_options
from ...common.urls import hosts_and_ports, without_secrets
from ..address import Address, database_in, read_location
from ..connection import open_connection
from ..options import DEFAULT_PORT, OPTIONS, Node, node_remapping
from ..packets import encode_command, permission_cure, without_full_stop

_ANSWER_SECONDS = 0.5
"""After which another node is asked, too."""

_UNKNOWN = ("", "?")
"""What a node calls a host if it knows no other name than the one that it was reached by."""

_SLOTS = encode_command("CLUSTER", "SLOTS")
_INFO = encode_command("CLUSTER", "INFO")

Range = tuple[int, int, Node]
"""The first slot, the last slot, and the master that serves them."""


class ClusterSeeds:
    """The nodes that are known by now, at first those of the URL."""

    def __init__(self, url: str, options: Mapping[str, Any], layer: type) -> None:
        """``layer`` as for `Address`."""
        parts, given = read_location(url, "cluster")
        self._seeds = hosts_and_ports(parts, DEFAULT_PORT)
        given = {**options, **database_in(parts.scheme, parts.path), **given}
        if given.pop("db", 0):
            raise ValueError(f"{without_secrets(url)!r} names a database; a cluster has only the first one")
        check_options(given, OPTIONS)
        self._remap = node_remapping(given.pop("address_remap", None))
        self._options = Address(None, given, layer)
        self._text = f"{self._options.scheme}+cluster://{','.join(parts.hosts)}"
        self._nodes = list(self._seeds)
        """Which to ask, the best first."""

    def __str__(self) -> str:
        """A URL without secrets."""
        return self._text

    def address_of(self, node: Node) -> Address:
        """Return the address of one node."""
        return self._options.at(node)

    def read_node(self, text: str) -> Node:
        """Return the node that a redirection names."""
        host, _, port = text.rpartition(":")
        return self._reachable(host, int(port), self._nodes[0])

    def _reachable(self, host: str, port: int, asked: Node) -> Node:
        return self._remap((asked[0] if host in _UNKNOWN else host, port))

    async def discover_masters(self) -> list[Range]:
        """Return which master serves which slots, as the first node says that knows the cluster to be healthy.

        Raises `ListenerClosed` if none does.
        """
        error: BaseException | None = None
        to_ask, asked = list(self._nodes), set[asyncio.Task[list[Range]]]()
        try:
            while to_ask or asked:
                if to_ask:
                    asked.add(asyncio.create_task(self._ask(to_ask.pop(0))))
                timeout = _ANSWER_SECONDS if to_ask else None
                done, asked = await asyncio.wait(asked, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result()
        finally:
            for task in asked:
                task.cancel()
            if asked:
                # Until they have closed what they opened.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait(asked)
        raise ListenerClosed(f"{self}: no node knows the masters; the last error: {error}") from error

    async def _ask(self, node: Node) -> list[Range]:
        address = self.address_of(node)
        try:
            connection, (slots, info) = await open_connection(address, _SLOTS, _INFO)
            connection.abort()
            for reply in (slots, info):
                if isinstance(reply, hiredis.ReplyError):
                    cure = permission_cure(str(reply)) or f"If it is not a cluster, write {address} for it"
                    raise ListenerClosed(f"{address}: {without_full_stop(str(reply))}. {cure}")
            if b"cluster_state:ok" not in info:
                raise ListenerClosed(
                    f"{address}: the cluster is down. Some slots have no master that answers: start it, "
                    f"or wait until a replica takes over"
                )
        except ListenerClosed:
            self._nodes.remove(node)
            self._nodes.append(node)
            raise
        return self._learn(node, slots)

    def _learn(self, asked: Node, slots: list[Any]) -> list[Range]:
        masters, nodes = [], [asked]
        for first, last, *serving in slots:
            found = [self._reachable((host or b"").decode(), int(port), asked) for host, port, *_ in serving]
            masters.append((first, last, found[0]))
            nodes.extend(node for node in found if node not in nodes)
        self._nodes = [*nodes, *(seed for seed in self._seeds if seed not in nodes)]
        return masters
