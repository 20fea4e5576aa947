"""One layer spread over several independent brokers, so that they share the load."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import anyio

from ..core.events import Event
from ..core.exceptions import ListenerClosed
from ..core.layer import BaseChannelLayer, BindsElsewhere, require_binds_elsewhere

_NAMES_REMEMBERED = 10_000


class ShardedChannelLayer(BaseChannelLayer):
    """Layers of one class, each for a broker of its own; every group and every queue is at one of them, by its name.

    All programs must list the same brokers in the same order. A broker that is appended takes over its share of the
    names and leaves the others where they are. Order is kept within a group and within a queue, as with one broker.

    A `Channel` keeps each broker's link alive by itself. Used without one, the layer lives as long as all of them do.
    """

    def __init__(self, parts: Sequence[BaseChannelLayer]) -> None:
        if not parts:
            raise TypeError("ShardedChannelLayer needs at least one layer")
        kinds = {type(part).__name__ for part in parts}
        if len(kinds) > 1:
            raise TypeError(f"ShardedChannelLayer needs layers of one class, not {', '.join(sorted(kinds))}")
        self._parts = tuple(parts)
        self._life: _Life | None = None

    @property
    def address(self) -> str:
        return ", ".join(part.address for part in self._parts)

    @property
    def parts(self) -> Sequence[BaseChannelLayer]:
        return self._parts

    def part_of(self, name: str) -> BaseChannelLayer:
        return self._parts[_heaviest(name, len(self._parts))]

    async def connect(self) -> None:
        await self.disconnect()
        life = self._life = _Life()
        try:
            async with anyio.create_task_group() as tasks:
                for part in self._parts:
                    if isinstance(part, BindsElsewhere):
                        part.put_bound_with(self.put)
                    tasks.start_soon(self._connect, part, life)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.disconnect()
            raise
        error = life.error or (None if self._life is life else self._not_connected())
        if error is not None:
            await self._disconnect_all()
            raise ListenerClosed(f"{self.address}: {error}") from error

    async def _connect(self, part: BaseChannelLayer, life: _Life) -> None:
        try:
            await part.connect()
        except ListenerClosed as error:
            life.error = error

    async def disconnect(self) -> None:
        if self._life is not None:
            self._life = None
            await self._disconnect_all()

    async def _disconnect_all(self) -> None:
        async with anyio.create_task_group() as tasks:
            for part in self._parts:
                tasks.start_soon(part.disconnect)

    def keep_no_history(self, group: str) -> None:
        self.part_of(group).keep_no_history(group)

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        return await self._connected(group).history(group, since=since, limit=limit)

    async def position(self, group: str) -> str:
        return await self._connected(group).position(group)

    def is_after(self, position: str, other: str) -> bool:
        return self._parts[0].is_after(position, other)

    # ---- topics -------------------------------------------------------------------------------------------------

    async def subscribe(self, groups: str) -> None:
        await self._connected(groups).subscribe(groups)

    async def unsubscribe(self, groups: str) -> None:
        await self._connected(groups).unsubscribe(groups)

    async def subscribe_pattern(self, pattern: str) -> None:
        for part in self._all_connected():
            await part.subscribe_pattern(pattern)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        for part in self._all_connected():
            await part.unsubscribe_pattern(pattern)

    async def publish(self, group: str, message: bytes) -> int | None:
        return await self._connected(group).publish(group, message)

    async def listeners(self, group: str) -> int | None:
        return await self._connected(group).listeners(group)

    async def next_published(self) -> Event[bytes]:
        life = self._alive()
        while not life.events:
            if life.error is not None:
                raise life.error
            async with anyio.create_task_group() as tasks:
                for part in self._parts:
                    tasks.start_soon(self._read, part, life, tasks.cancel_scope)
        return life.events.popleft()

    async def _read(self, part: BaseChannelLayer, life: _Life, all_reading: anyio.CancelScope) -> None:
        try:
            life.events.append(await part.next_published())
        except ListenerClosed as error:
            life.error = ListenerClosed(f"{self.address}: {error}")
        all_reading.cancel()

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._connected(queue).put(queue, message, capacity=capacity, expiry=expiry)

    async def take(self, queue: str) -> bytes:
        return await self._connected(queue).take(queue)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """Where the group is; what is published there is put into the queue at its own broker by the publisher."""
        part = self._connected(group)
        require_binds_elsewhere(self._parts)
        await part.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._connected(group).unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        for part in self._all_connected():
            await part.purge(prefix)

    # ---- life ---------------------------------------------------------------------------------------------------

    def _connected(self, name: str) -> BaseChannelLayer:
        self._alive()
        return self.part_of(name)

    def _all_connected(self) -> Sequence[BaseChannelLayer]:
        self._alive()
        return self._parts

    def _alive(self) -> _Life:
        if self._life is None:
            raise self._not_connected()
        return self._life

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address}: not connected; use the layer through a Channel, or connect() it first")


class _Life:
    """What has come from the brokers and was not fetched, and why one of them is gone."""

    def __init__(self) -> None:
        self.events: deque[Event[bytes]] = deque()
        self.error: ListenerClosed | None = None


@lru_cache(maxsize=_NAMES_REMEMBERED)
def _heaviest(name: str, count: int) -> int:
    """Which of so many brokers weighs a name most (rendezvous hashing); equal in every process."""
    weighed = name.encode()

    def weight(index: int) -> bytes:
        return blake2b(weighed, digest_size=8, salt=b"%d" % index).digest()

    return max(range(count), key=weight)
