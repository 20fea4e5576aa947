"""Round trips through the broker: what a node publishes to itself."""

from __future__ import annotations

import asyncio
import secrets
from itertools import count
from time import perf_counter

from ...core.exceptions import ListenerClosed
from ...hub.channel import Channel
from ...hub.sharding import shard_index
from ...hub.subscriber import Timestamped
from ..settings import Settings


class Echo:
    """The topics at which one node receives what it publishes there, one at each broker."""

    def __init__(self, node_id: str, channel: Channel, settings: Settings) -> None:
        self._channel = channel
        brokers = max(1, len(settings.layer_factories))
        topics: dict[int, str] = {}
        numbers = count()
        while len(topics) < brokers:
            topic = settings.names.echo(node_id, next(numbers))
            topics.setdefault(shard_index(topic, brokers), topic)
        self._topics = list(topics.values())
        self._pending: dict[tuple[str, bytes], asyncio.Future[None]] = {}
        """What is on its way: topic and payload."""

    async def ping(self, timeout: float) -> float:
        """Publish at every broker and wait until it comes back; return the seconds that took.

        Raises `ListenerClosed` after ``timeout`` seconds, and what subscribing and publishing raise.
        """
        token = secrets.token_hex(8).encode()
        arrivals = {(topic, token): asyncio.get_running_loop().create_future() for topic in self._topics}
        self._pending |= arrivals
        try:
            async with asyncio.timeout(timeout):
                # In effect already after the first time.
                for topic in self._topics:
                    await self._channel.add_sink(topic, self)
                began = perf_counter()
                for topic in self._topics:
                    await self._channel.publish_payload(topic, token)
                await asyncio.gather(*arrivals.values())
                return perf_counter() - began
        except TimeoutError:
            raise ListenerClosed(
                f"{self._channel.layer.address} did not return a message within {timeout:g} s. Check that the broker "
                f"runs, that the address is right, and that nothing blocks the event loop of this process"
            ) from None
        finally:
            for key in arrivals:
                del self._pending[key]

    def put(self, entry: Timestamped) -> None:
        """See `Sink`."""
        event = entry[1]
        arrival = self._pending.get((event.group, event.message))
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def close(self) -> None:
        """No task waits for more than its own time limit."""
