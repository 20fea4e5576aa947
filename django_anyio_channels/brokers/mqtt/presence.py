"""The records of presence as retained messages, which the broker forgets in time (Message Expiry Interval).

Topics: ``%nodes/<scope>/present/<name>/<key>``. To read, a node subscribes to those of a name, which brings all that is
retained, and then publishes a message there that is not: when that arrives, nothing else is to come.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterable
from contextlib import suppress
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
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.]{1,100}$")]
_decode = msgspec.msgpack.Decoder(tuple[str, _Key, bytes]).decode


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
        self._reading: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._pending: set[asyncio.Future[None]] = set()

    async def put(self, records: Iterable[PresenceRecord], ttl: float) -> None:
        """Put and remove records."""
        # Brokers count whole seconds, of which the first one may be over at once.
        properties = Properties(message_expiry_interval=math.ceil(ttl) + 1).pack()
        await asyncio.gather(*(self._put(record, properties) for record in records))

    async def _put(self, record: PresenceRecord, properties: bytes) -> None:
        name, key, content = record
        topic = b"%b%b/%b" % (self._topics, to_topic(name), key.encode())
        if content:
            await self._transport.publish(topic, _encode(record), retain=True, properties=properties)
        else:
            await self._transport.publish(topic, b"", retain=True)

    async def read(self, name: str) -> dict[str, bytes]:
        """Return the records of a name."""
        records = await self._read(to_topic(name) + b"/", b"+")
        return {key: content for (of_name, key), content in records.items() if of_name == name}

    async def purge(self, prefix: str) -> None:
        """Remove the records of all names that begin with ``prefix``."""
        names = await self._read(b"", b"#")
        await self.put([PresenceRecord(*place, b"") for place in names if place[0].startswith(prefix)], 0)

    async def _read(self, topics: bytes, wildcard: bytes) -> dict[tuple[str, str], bytes]:
        async with self._reading.setdefault(topics, asyncio.Lock()):
            return await self._read_alone(topics, wildcard)

    async def _read_alone(self, topics: bytes, wildcard: bytes) -> dict[tuple[str, str], bytes]:
        end = secrets.token_hex(8)
        found: dict[tuple[str, str], bytes] = {}
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def receive(payload: bytes) -> None:
            try:
                name, key, content = _decode(payload)
            except (msgspec.DecodeError, ValueError):
                return  # it was just removed, or is not ours
            if key == end:
                resolve(ended, None)
            elif content:
                found[name, key] = content

        topic_filter = self._topics + topics + wildcard
        self._pending.add(ended)
        try:
            await self._transport.subscribe(
                Subscription(topic_filter, topic_filter.decode(), handler=receive, retained=True)
            )
            await self._transport.publish(self._topics + topics + end.encode(), _encode(("", end, b"")))
            await ended
        finally:
            self._pending.discard(ended)
            await self._transport.unsubscribe(topic_filter)
        return found

    def end(self, error: ListenerClosed) -> None:
        """The session is over: fail all calls with ``error``."""
        for future in self._pending:
            with suppress(asyncio.InvalidStateError):  # the end has just come
                future.set_exception(error)
            future.exception()  # the call may raise another one before it comes to this
