"""The nodes of a Redis Cluster: which are known, how to log in, and which master serves which slots (CLUSTER SLOTS)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import hiredis

from ....core.exceptions import ListenerClosed
from ....core.options import check_options
from ...common.urls import hosts_and_ports, read_url, without_secrets
from ..address import DEFAULT_PORT, Address, parse_options
from ..connection import open_connection
from ..options import OPTIONS
from ..packets import encode_command

_ANSWER_SECONDS = 0.5
"""After which another node is asked, too."""

_UNKNOWN = ("", "?")
"""What a node calls a host if it knows no other name than the one that it was reached by."""

_SLOTS = encode_command("CLUSTER", "SLOTS")
_INFO = encode_command("CLUSTER", "INFO")

Node = tuple[str, int]
"""Host and port."""
Range = tuple[int, int, Node]
"""The first slot, the last slot, and the master that serves them."""


def is_cluster(url: str) -> bool:
    """Return whether a URL is that of a cluster."""
    return "cluster" in read_url(url).kinds


class ClusterSeeds:
    """The nodes that are known by now, at first those of the URL."""

    def __init__(self, url: str, options: Mapping[str, Any], layer: type) -> None:
        """``layer`` as for `Address`."""
        check_options({"url": url, **options}, OPTIONS)
        parts = read_url(url)
        self._text = f"{parts.scheme}+cluster://{','.join(parts.hosts)}"
        self._seeds = hosts_and_ports(parts, DEFAULT_PORT)
        given = parse_options(parts.scheme, parts.path, parts.query, parts.username, parts.password)
        self._options = {**options, **given}
        self._layer = layer
        if self._options.pop("db", 0):
            raise ValueError(f"{without_secrets(url)!r} names a database; a cluster has only the first one")
        self._addresses: dict[Node, Address] = {}
        self._nodes = list(self._seeds)
        """Which to ask, the best first."""
        self.address_of(self._seeds[0])

    def __str__(self) -> str:
        """A URL without secrets."""
        return self._text

    def address_of(self, node: Node) -> Address:
        """Return the address of one node."""
        if node not in self._addresses:
            self._addresses[node] = Address(None, {**self._options, "host": node[0], "port": node[1]}, self._layer)
        return self._addresses[node]

    def read_node(self, text: str) -> Node:
        """Return the node that a redirection names."""
        host, _, port = text.rpartition(":")
        return self._nodes[0][0] if host in _UNKNOWN else host, int(port)

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
        raise ListenerClosed(f"{self}: no node leads to the masters; the last one: {error}") from error

    async def _ask(self, node: Node) -> list[Range]:
        address = self.address_of(node)
        try:
            connection, (slots, info) = await open_connection(address, _SLOTS, _INFO)
            connection.abort()
            for reply in (slots, info):
                if isinstance(reply, hiredis.ReplyError):
                    raise ListenerClosed(f"{address}: {reply}. If it is no cluster, write {address} for it")
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
            found = [_read(node, asked) for node in serving]
            masters.append((first, last, found[0]))
            nodes.extend(node for node in found if node not in nodes)
        self._nodes = [*nodes, *(seed for seed in self._seeds if seed not in nodes)]
        return masters


def _read(node: list[Any], asked: Node) -> Node:
    host = (node[0] or b"").decode()
    return asked[0] if host in _UNKNOWN else host, int(node[1])
