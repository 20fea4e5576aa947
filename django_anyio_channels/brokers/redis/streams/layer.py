"""Redis and Valkey with a history of each group: nothing is missed over a loss of the link, or it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....core.events import Event, PublishResult
from ....core.exceptions import InvalidPosition, ListenerClosed, PayloadTooLarge
from ....core.layer import BaseChannelLayer
from ..layer import LARGEST_MESSAGE, RedisPubSubChannelLayer, unknown
from .consumer_groups import ConsumerGroups, jobs_beside, queue_place
from .deliveries import Work
from .entries import epoch_of, is_position, order_of
from .history import Histories, History
from .publisher import Publisher


class RedisStreamsChannelLayer(BaseChannelLayer):
    """`RedisPubSubChannelLayer` whose groups have a history: what was published while a link was down comes after it.

    ``url`` is ``redis+streams://host:port/database``, ``rediss+streams://`` for TLS, ``unix+streams:///path``,
    ``redis+streams+sentinel://host:26379,host:26379/mastername/database`` or
    ``redis+streams+cluster://host:7000,host:7001``; everything else is as there. Of each group the last
    ``history_length`` messages are kept, none longer than ``history_age`` seconds. A node that was away for more than
    that, or whose server has lost its memory, gets a `Gap` instead, and so does a pattern after every loss of the link.

    In a cluster, a group's history moves with its slot, and a subscriber that had to follow gets what was published
    meanwhile. While the slot is half way between two masters, whatever concerns its groups waits; after five seconds
    it is refused, but who waits for work waits on. What a replica that takes over had not got of its master's groups is
    a `Gap` for those alone.

    `publish` returns the position of the message. The order of a group is the same for all.

    Subscriptions of a ``consumer_group`` share the events of a group: each goes to one of them, and what is not
    acknowledged within ``redeliver_after`` seconds goes to another. What was handed out ``deliver_at_most`` times is
    published to a group of dead letters instead. The same holds for `receive_job`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        history_length: int = 1000,
        history_age: float = 3600.0,
        consumer_group: str | None = None,
        redeliver_after: float = 60.0,
        deliver_at_most: int = 5,
        probe_interval: float = 10.0,
        **options: Any,
    ) -> None:
        if history_length < 1 or not history_age > 0:
            raise ValueError(
                f"history_length is {history_length} messages and history_age {history_age} s; both must be above 0"
            )
        if not redeliver_after > 0 or deliver_at_most < 1:
            raise ValueError(
                f"redeliver_after is {redeliver_after} s and deliver_at_most {deliver_at_most} times; "
                f"both must be above 0"
            )
        self._redis = RedisPubSubChannelLayer(
            None if url is None else _without_streams(url), probe_interval=probe_interval, **options
        )
        self._history = History(history_length, history_age)
        self._publisher: Publisher
        self._histories = Histories(self._history)
        self._without_history: set[str] = set()
        self._consumer_group = consumer_group
        self._redeliver_after = redeliver_after
        self._deliver_at_most = deliver_at_most
        self._consumer_groups = ConsumerGroups(self._history)
        self._work = Work(redeliver_after)

    @property
    def address(self) -> str:
        return self._redis.address

    @property
    def consumer_group(self) -> str | None:
        return self._consumer_group

    @property
    def redeliver_after(self) -> float:
        return self._redeliver_after

    @property
    def deliver_at_most(self) -> int:
        return self._deliver_at_most

    @property
    def returns_bound_queues(self) -> bool:
        return True

    async def connect(self) -> None:
        await self.disconnect()
        await self._redis.connect()
        self._publisher = Publisher(self._history, self._redis.alive())
        self._histories.begin(self._redis.alive())
        self._work.begin(self._redis.alive())

    async def disconnect(self) -> None:
        error = ListenerClosed(f"{self.address} was disconnected")
        if self._redis.is_alive:
            self._histories.forget_all()
            await self._work.leave(self._redis.alive(), error)
        else:
            self._work.end(error)
        await self._redis.disconnect()

    def subscriptions_restored(self) -> bool:
        self._histories.restored()
        return True

    def disable_history(self, group: str) -> None:
        self._without_history.add(group)

    # ---- topics -------------------------------------------------------------------------------------------------

    async def subscribe(self, groups: str) -> None:
        if groups in self._without_history:
            await self._redis.subscribe(groups)
            return
        self._redis.alive()
        self._histories.expect(groups)
        await self._redis.subscribe(groups)
        await self._histories.catch_up(groups)

    async def unsubscribe(self, groups: str) -> None:
        self._histories.forget(groups)
        await self._redis.unsubscribe(groups)

    async def subscribe_pattern(self, pattern: str) -> None:
        await self._redis.subscribe_pattern(pattern)
        self._histories.expect_pattern(pattern)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        self._histories.forget_pattern(pattern)
        await self._redis.unsubscribe_pattern(pattern)

    async def publish(self, group: str, message: bytes) -> PublishResult:
        if group in self._without_history:
            return await self._redis.publish(group, message)
        life = self._redis.alive()
        if len(message) > LARGEST_MESSAGE:
            raise PayloadTooLarge(f"Redis carries up to {LARGEST_MESSAGE} bytes; this message has {len(message)}")
        try:
            reached, position, bound = await self._publisher.publish(group.encode(), message)
        except ListenerClosed as error:
            raise unknown(error) from error
        queues = await self._redis.bound_queues(life, group.encode(), bound)
        return PublishResult(reached, position.decode(), queues)

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        life, name = self._redis.alive(), group.encode()
        if since is None:
            frames = await self._history.latest(life, name, limit)
        elif not is_position(since):
            raise InvalidPosition(f"{since!r} is no position; take Event.position, or what publish returned")
        else:
            frames = await self._history.after(life, name, since.encode(), limit)
        return [Event(group, frame.message, None, None, frame.position.decode()) for frame in frames]

    async def position(self, group: str) -> str:
        last, _ = await self._history.page(self._redis.alive(), group.encode(), b"")
        return last.decode()

    def is_after(self, position: str, other: str) -> bool:
        one, two = position.encode(), other.encode()
        return epoch_of(one) != epoch_of(two) or order_of(one) > order_of(two)

    def set_event_handler(self, deliver: Callable[[Event[bytes]], None]) -> None:
        self._redis.set_event_handler(deliver)

    async def next_published(self) -> Event[bytes]:
        return await self._redis.next_published()

    # ---- acknowledged work --------------------------------------------------------------------------------------

    async def join(self, group: str, consumer_group: str) -> None:
        await self._consumer_groups.join(self._redis.alive(), group.encode(), consumer_group)

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        self._redis.alive()
        return await self._work.take(self._consumer_groups.place(group.encode(), consumer_group), group)

    def notify_published(self, group: str) -> None:
        self._work.look(group)

    async def receive_job(self, queue: str) -> Event[bytes]:
        self._redis.alive()
        return await self._work.take(queue_place(queue.encode()), queue)

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._redis.put(queue, message, capacity=capacity, expiry=expiry)

    async def take(self, queue: str) -> bytes:
        return await self._redis.take(queue)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._redis.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._redis.unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        await self._redis.purge(prefix)
        life, start = self._redis.alive(), prefix.encode()
        for key in await life.keys(start, "stream"):
            await life.ask(key, "DEL", key)
        for key in await life.keys(start, "zset"):
            await life.ask(key, "DEL", key, jobs_beside(key))


def _without_streams(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    kinds = scheme.lower().split("+")
    if "streams" in kinds[1:]:
        kinds.remove("streams")
    return f"{'+'.join(kinds)}{separator}{rest}"
