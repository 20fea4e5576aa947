"""Messages with an idempotency key: repeated when it is unknown whether they arrived, and accepted once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from ..core.capabilities import SupportsIdempotency
from ..core.events import PublishResult
from ..core.exceptions import ListenerClosed, NotSupported
from .encryption import ChannelEncryption
from .queues import Queues
from .sharding import Shards
from .supervisor import Supervisor

T = TypeVar("T")

KEY_SECONDS = 300.0
"""For which a broker remembers a key."""

_ATTEMPTS = 3


class IdempotentCalls:
    """`Channel.idempotent`: what `Channel` and its queues do, but once for each key within `KEY_SECONDS`.

    A call whose answer was lost is repeated when there is a connection again. So `DeliveryUnknown` is raised only if
    there is none for ``publish_timeout`` seconds then, or if connections keep breaking. Raises `NotSupported` where the
    broker cannot remember keys.
    """

    def __init__(self, shards: Shards, encryption: ChannelEncryption | None, queues: Queues) -> None:
        self._shards = shards
        self._encryption = encryption
        self._queues = queues

    async def publish(self, group: str, payload: bytes, key: str) -> PublishResult:
        """`Channel.publish_payload`; with a key that the group has had, return the result of the first call."""
        supervisor = self._shards.of(group)
        layer = _require_idempotency(supervisor)

        async def publish() -> PublishResult:
            message = payload if self._encryption is None else self._encryption.for_group(group, payload, None)
            return await layer.publish_once(group, message, key=key, seconds=KEY_SECONDS)

        result = await _repeat(supervisor, publish, f"to {group}")
        if result.bound_queues:
            # Also in the second call: the first one may have ended before it did.
            await self._queues.put_into_bound(result.bound_queues, payload, partial(self.put, key=key))
        return PublishResult(result.receivers, result.position)

    async def put(self, queue: str, payload: bytes, *, capacity: int, expiry: float, key: str) -> None:
        """`Queues.put`; with a key that the queue has had, do nothing."""
        supervisor = self._shards.of(queue)
        layer = _require_idempotency(supervisor)

        async def put() -> None:
            message = payload if self._encryption is None else self._encryption.for_queue(queue, payload, expiry)
            await layer.put_once(queue, message, capacity=capacity, expiry=expiry, key=key, seconds=KEY_SECONDS)

        await _repeat(supervisor, put, f"to queue {queue}")


def _require_idempotency(supervisor: Supervisor) -> SupportsIdempotency:
    layer = supervisor.layer
    if not isinstance(layer, SupportsIdempotency):
        raise NotSupported(
            f"{type(layer).__name__} cannot remember idempotency keys; use Redis, PostgreSQL or the in-memory "
            f"layer, or send without idempotency_key"
        )
    return layer


async def _repeat(supervisor: Supervisor, call: Callable[[], Awaitable[T]], destination: str) -> T:
    """Call until it is known what became of it. Raises `DeliveryUnknown`; or `ListenerClosed` if nothing was sent."""
    unknown: ListenerClosed | None = None
    for _ in range(_ATTEMPTS):
        try:
            session = await supervisor.wait_connected()
        except ListenerClosed as error:
            if unknown is None:
                raise
            raise unknown from error
        try:
            return await call()
        except ListenerClosed as error:
            unknown = supervisor.delivery_unknown(session, destination, error)
    assert unknown is not None
    raise unknown
