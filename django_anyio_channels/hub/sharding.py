"""Which of several brokers has a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from ..core.exceptions import ChannelClosed
from ..core.layer import BaseChannelLayer
from .supervisor import Supervisor


@lru_cache(maxsize=10_000)
def shard_index(name: str, count: int) -> int:
    """Return which of ``count`` brokers has a group or a queue; equal in every process.

    Rendezvous hashing: a broker that is appended takes over its share of the names and leaves the others where they
    are.
    """
    encoded = name.encode()

    def weight(index: int) -> bytes:
        return blake2b(encoded, digest_size=8, salt=b"%d" % index).digest()

    return max(range(count), key=weight)


class Shards:
    """The layers of a `Channel`, one for each broker, and their supervisors while it is open."""

    def __init__(self, layers: Sequence[BaseChannelLayer]) -> None:
        if not layers:
            raise TypeError("Channel needs at least one layer")
        kinds = {type(layer).__name__ for layer in layers}
        if len(kinds) > 1:
            raise TypeError(f"Channel needs layers of one class, not {', '.join(sorted(kinds))}")
        self.layers: tuple[BaseChannelLayer, ...] = tuple(layers)
        self.supervisors: tuple[Supervisor, ...] = ()
        self.only: Supervisor | None = None
        """The supervisor where there is one broker, to save a call of `of`."""

    def set_supervisors(self, supervisors: tuple[Supervisor, ...]) -> None:
        """Set one for each layer, or none when the Channel is closed."""
        self.supervisors = supervisors
        self.only = supervisors[0] if len(supervisors) == 1 else None

    def all(self) -> tuple[Supervisor, ...]:
        """Return all supervisors. Raises `ChannelClosed` while there are none."""
        if not self.supervisors:
            addresses = ", ".join(layer.address for layer in self.layers)
            raise ChannelClosed(f"The Channel to {addresses} is not open; use it inside `async with`")
        return self.supervisors

    def of(self, name: str) -> Supervisor:
        """Return the one whose broker has a group or a queue."""
        supervisors = self.supervisors or self.all()
        return self.only or supervisors[shard_index(name, len(supervisors))]

    def of_subscription(self, name: str, *, pattern: bool) -> Iterable[Supervisor]:
        """Return those whose brokers have a group, or may have groups that match a pattern."""
        return self.all() if pattern else (self.of(name),)
