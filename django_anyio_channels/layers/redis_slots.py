"""Redis Cluster's map: which slot a name is in, and the nodes one may ask who has it."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url

from .redis_address import Address, host_and_port, without_secrets

SLOTS = 16384
_DEFAULT_PORT = 6379

Node = tuple[str, int]


def slot_of(name: bytes) -> int:
    """The slot of a key or a sharded channel; what stands in its first braces decides, if anything does."""
    opened = name.find(b"{")
    if opened >= 0:
        closed = name.find(b"}", opened + 1)
        if closed > opened + 1:
            name = name[opened + 1 : closed]
    return crc_hqx(name, 0) % SLOTS


@lru_cache(maxsize=100)
def tag_in(slot: int) -> bytes:
    """A text whose slot this is; the same in every program."""
    number = 0
    while slot_of(b"%d" % number) != slot:
        number += 1
    return b"%d" % number


def is_cluster(url: str) -> bool:
    """Whether a URL is that of a cluster."""
    return urlsplit(url).scheme in ("redis+cluster", "rediss+cluster")


class ClusterAddress:
    """The nodes of a cluster that are known by now, and how to get into any of them."""

    def __init__(self, url: str, options: Mapping[str, Any], own: frozenset[str]) -> None:
        parts = urlsplit(url)
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError(f"{without_secrets(url)!r} names a database; a cluster has only the first one")
        self._scheme = parts.scheme
        credentials, at, hosts = parts.netloc.rpartition("@")
        self._seeds = [host_and_port(host, _DEFAULT_PORT) for host in hosts.split(",")]
        query = f"?{parts.query}" if parts.query else ""
        plain = f"{parts.scheme.partition('+')[0]}://{credentials}{at}cluster{query}"
        self._options = {**options, **parse_url(plain)}
        self._own = own
        self.nodes = list(self._seeds)
        """Whom to ask for the map, the best first."""
        self.node(*self._seeds[0])

    def __str__(self) -> str:
        """A URL without secrets."""
        return f"{self._scheme}://{','.join(f'{host}:{port}' for host, port in self._seeds)}"

    def node(self, host: str, port: int) -> Address:
        """The address of one node."""
        return Address(None, {**self._options, "host": host, "port": port}, self._own)

    def learn(self, nodes: list[Node]) -> None:
        """These are the nodes now; those of the URL are asked when none of them answers."""
        self.nodes = [*nodes, *(seed for seed in self._seeds if seed not in nodes)]

    def avoid(self, node: Node) -> None:
        """It did not answer: ask it last."""
        self.nodes.remove(node)
        self.nodes.append(node)
