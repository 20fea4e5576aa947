"""What the tests of layers have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol

import anyio
import anyio.lowlevel

from django_anyio_channels import BaseChannelLayer, Channel, Event, Gap, PublishResult

from .kinds import Broker, Kind

Unique = Callable[[str], str]

TIME_LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""


def new_layer(broker: Broker) -> BaseChannelLayer:
    """Return one more layer object of a broker, not connected."""
    [layer] = broker.layers()
    return layer


@asynccontextmanager
async def connected(broker: Broker, count: int = 1) -> AsyncIterator[list[BaseChannelLayer]]:
    """Connect so many layers of one broker, each with its own connection. The body has `TIME_LIMIT` seconds."""
    layers = [new_layer(broker) for _ in range(count)]
    try:
        with anyio.fail_after(TIME_LIMIT):
            for layer in layers:
                await layer.connect()
            yield layers
    finally:
        with anyio.CancelScope(shield=True):
            for layer in layers:
                await layer.disconnect()


@asynccontextmanager
async def opened(broker: Broker, count: int = 1) -> AsyncIterator[list[Channel]]:
    """Open so many Channels over one broker, or over one list of brokers. The body has `TIME_LIMIT` seconds."""
    with anyio.fail_after(TIME_LIMIT):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(Channel(broker.layers())) for _ in range(count)]


async def receivers(layer: BaseChannelLayer, group: str, message: bytes) -> int | None:
    """Publish, and return how many nodes the broker handed the message to, if it says so."""
    result = await layer.publish(group, message)
    assert isinstance(result, PublishResult)
    return result.receivers


async def read(layer: BaseChannelLayer, count: int) -> list[Event[bytes]]:
    """Return the next so many events, without those that say where a layer left some out."""
    events: list[Event[bytes]] = []
    while len(events) < count:
        event = await layer.next_published()
        if not isinstance(event, Gap):
            events.append(event)
    return events


async def messages(layer: BaseChannelLayer, count: int) -> list[bytes]:
    """Return the messages of the next so many events."""
    return [event.message for event in await read(layer, count)]


class QueueVerbs(Protocol):
    """A layer, or `Channel.queues`."""

    async def put(self, queue: str, message: bytes, /, *, capacity: int, expiry: float) -> None: ...

    async def take(self, queue: str) -> bytes: ...


async def take_all(queues: QueueVerbs, queue: str, *, until: bytes) -> list[bytes]:
    """Take what a queue holds before a last message, which is not returned."""
    taken = []
    while (message := await queues.take(queue)) != until:
        taken.append(message)
    return taken


async def accepted(kind: Kind, layer: BaseChannelLayer) -> None:
    """Wait until the broker has what the layer published: at once, if `publish` waits for that."""
    if not kind.acknowledged:
        await layer.subscribe("after what was published")
        await layer.unsubscribe("after what was published")


async def blocked() -> None:
    """Wait until all other tasks wait for something.

    On asyncio `anyio.wait_all_tasks_blocked` sleeps for a tenth of a second if not all do when it looks.
    """
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


@contextmanager
def trying(value: object) -> Iterator[None]:
    """Have a failure name the value that a test tries, one of many. A third of `TIME_LIMIT` passing is a failure."""
    try:
        with anyio.fail_after(TIME_LIMIT / 3):
            yield
    except Exception as error:
        error.add_note(f"with {value!r}")
        raise
