"""The records of presence as retained messages, which the broker forgets in time (Message Expiry Interval).

Topics: ``%nodes/<scope>/present/<name>/<key>``. To read, a node subscribes to those of a name, which brings all that is
retained, and then publishes a message there that is not: when that arrives, nothing else is to come.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterable
from typing import Annotated, Protocol
from weakref import WeakValueDictionary

import msgspec

from ...core.capabilities import PresenceRecord
from ...core.exceptions import ListenerClosed
from .packets import NO_PROPERTIES, Properties
from .queues.messaging import resolve, topics_of
from .subscriptions import Subscription
from .topics import to_topic

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Annotated[str, msgspec.Meta(max_length=100)], bytes]).decode


class PresenceTransport(Protocol):
    """What this needs of a session."""

    @property
    def scope(self) -> str: ...

    async def subscribe(self, subscription: Subscription) -> None: ...

    async def unsubscribe(self, topic_filter: bytes) -> None: ...

    async def publish(
        self, topic: bytes, payload: bytes, *, retain: bool = False, properties: bytes = NO_PROPERTIES
    ) -> int: ...


class Presence:
    """The records of presence in one session."""

    def __init__(self, transport: PresenceTransport) -> None:
        self._transport = transport
        self._topics = topics_of(transport.scope) + b"present/"
        self._reading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pending: set[asyncio.Future[None]] = set()

    async def put(self, records: Iterable[PresenceRecord], ttl: float) -> None:
        """Put and remove records."""
        properties = Properties(message_expiry_interval=math.ceil(ttl)).pack()
        await asyncio.gather(
            *(
                self._transport.publish(
                    b"%b%b/%b" % (self._topics, to_topic(name), key.encode()),
                    _encode((key, content)) if content else b"",
                    retain=True,
                    properties=properties if content else NO_PROPERTIES,
                )
                for name, key, content in records
            )
        )

    async def read(self, name: str) -> dict[str, bytes]:
        """Return the records of a name."""
        async with self._reading.setdefault(name, asyncio.Lock()):
            return await self._read(self._topics + to_topic(name) + b"/")

    async def _read(self, topics: bytes) -> dict[str, bytes]:
        end = secrets.token_hex(8)
        found: dict[str, bytes] = {}
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def receive(payload: bytes) -> None:
            try:
                key, content = _decode(payload)
            except (msgspec.DecodeError, ValueError):
                return  # it was just removed, or is not ours
            if key == end:
                resolve(ended, None)
            elif content:
                found[key] = content

        topic_filter = topics + b"+"
        self._pending.add(ended)
        try:
            await self._transport.subscribe(
                Subscription(topic_filter, topic_filter.decode(), handler=receive, retained=True)
            )
            await self._transport.publish(topics + end.encode(), _encode((end, b"")))
            await ended
        finally:
            self._pending.discard(ended)
            await self._transport.unsubscribe(topic_filter)
        return found

    def end(self, error: ListenerClosed) -> None:
        """The session is over: fail all calls with ``error``."""
        for future in self._pending:
            if not future.done():
                future.set_exception(error)
