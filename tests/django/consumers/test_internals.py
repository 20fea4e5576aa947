"""`django.consumers.internals`: the channel of a consumer ends with it, whoever calls ``new_channel()`` for it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import BaseChannelLayer, channel_layers

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.consumers import internals
from django_anyio_channels.django.consumers.internals import ConsumerLifetime, calling_consumer, get_handler

from ..helpers import all_channels_ended, soon

MakeLayer = Callable[[AnyioChannelLayer], Any]


class Overriding(AnyioChannelLayer):
    """A project's own layer."""

    async def new_channel(self, prefix: str = "specific") -> str:
        await asyncio.sleep(0)
        return await super().new_channel(f"mine.{prefix}")


class Wrapper:
    """Has its own method for each that it uses."""

    def __init__(self, layer: AnyioChannelLayer) -> None:
        self.layer = layer
        self.receive, self.group_add = layer.receive, layer.group_add

    async def new_channel(self) -> str:
        return await self._traced()

    async def _traced(self) -> str:
        return await self.layer.new_channel()


class Proxy:
    """Passes every attribute through."""

    def __init__(self, layer: AnyioChannelLayer) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class SteppingWrapper(Wrapper):
    """Drives the coroutine by plain functions, as some agents that trace do."""

    async def new_channel(self) -> str:
        stepped: Any = _Stepped(self.layer.new_channel())
        name: str = await stepped
        return name


class _Stepped:
    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine

    def __await__(self) -> _Stepped:
        return self

    def __iter__(self) -> _Stepped:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)


class Chat(AsyncConsumer):
    """Joins a group, and says so."""

    async def connect(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "joined"})


class TwoChannels(Chat):
    """Makes a channel of its own before Channels does."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        layer: Any = channel_layers["default"]
        self.replies = await layer.new_channel("replies")
        await layer.group_add("replies", self.replies)
        await super().__call__(scope, receive, send)


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what a test does to Channels."""
    call, backends = AsyncConsumer.__call__, dict(channel_layers.backends)
    yield
    AsyncConsumer.__call__ = call  # type: ignore[method-assign]
    channel_layers.backends = backends


async def connected(consumer: AsyncConsumer) -> asyncio.Task[None]:
    """Start a consumer as a server does; returns when it has joined its group."""
    joined = asyncio.Event()
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "connect"})

    async def send(message: dict[str, Any]) -> None:
        joined.set()

    server: Any = consumer
    task: asyncio.Task[None] = asyncio.ensure_future(server({"type": "websocket"}, inbox.get, send))
    await soon(joined.wait())
    return task


def check_that_a_cancelled_consumer_leaves_nothing(
    layer: AnyioChannelLayer, default: object, consumer: type[Chat] = Chat, channels: int = 1
) -> None:
    async def main() -> None:
        channel_layers.set("default", cast(BaseChannelLayer, default))
        kept = consumer()  # by which only the end of its task tells that it has ended
        task = await connected(kept)
        assert layer.statistics()["channels"] == channels
        task.cancel()
        await asyncio.wait([task])
        await soon(all_channels_ended(layer))

    asyncio.run(main())


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("wrap", [lambda layer: layer, Wrapper, Proxy, SteppingWrapper])
def test_called_through_a_wrapper_or_a_proxy(wrap: MakeLayer) -> None:
    layer = AnyioChannelLayer()
    check_that_a_cancelled_consumer_leaves_nothing(layer, wrap(layer))


@pytest.mark.usefixtures("restored")
def test_called_through_a_subclass() -> None:
    layer = Overriding()
    check_that_a_cancelled_consumer_leaves_nothing(layer, layer)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("wraps", [functools.wraps, lambda original: lambda function: function])
def test_called_by_an_instrumented_consumer(wraps: Any) -> None:
    original: Any = AsyncConsumer.__call__

    async def traced(*args: Any, **kwargs: Any) -> None:
        await original(*args, **kwargs)

    AsyncConsumer.__call__ = wraps(original)(traced)  # type: ignore[method-assign]
    layer = AnyioChannelLayer()
    check_that_a_cancelled_consumer_leaves_nothing(layer, layer)


@pytest.mark.usefixtures("restored")
def test_every_channel_that_a_consumer_makes_at_its_beginning_ends_with_it() -> None:
    layer = AnyioChannelLayer()
    check_that_a_cancelled_consumer_leaves_nothing(layer, layer, TwoChannels, 2)


@pytest.mark.usefixtures("restored")
def test_a_channel_that_a_handler_makes_outlives_the_consumer() -> None:
    made: list[str] = []

    class Delegating(Chat):
        async def connect(self, message: dict[str, Any]) -> None:
            made.append(await self.channel_layer.new_channel())
            await super().connect(message)

    async def main() -> None:
        layer = AnyioChannelLayer()
        channel_layers.set("default", layer)
        task = await connected(Delegating())
        task.cancel()
        await asyncio.wait([task])
        await soon(all_channels_ended(layer))
        await layer.send(made[0], {"type": "n", "n": 1})
        assert await soon(layer.receive(made[0])) == {"type": "n", "n": 1}

    asyncio.run(main())


def test_the_search_ends_with_the_task() -> None:
    """An eager task runs on the stack of the task that starts it, and ends before the consumer."""

    class Eager(AsyncConsumer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def find() -> AsyncConsumer | None:
                return calling_consumer(cast("asyncio.Task[Any]", task))

            coroutine = find()
            task = SimpleNamespace(get_coro=lambda: coroutine)
            with pytest.raises(StopIteration) as found:
                coroutine.send(None)
            assert found.value.value is None

    asyncio.run(cast(Any, Eager())({}, None, None))


def test_the_search_has_a_greatest_depth() -> None:
    class Deep(AsyncConsumer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert await descend(20) is self
            assert await descend(200) is None

    async def descend(levels: int) -> AsyncConsumer | None:
        return await descend(levels - 1) if levels else calling_consumer(asyncio.current_task())

    asyncio.run(cast(Any, Deep())({}, None, None))


def test_a_lifetime_outlives_its_loop() -> None:
    """The garbage collector may find the consumer when the loop is closed."""
    consumer, loop = Chat(), asyncio.new_event_loop()
    lifetime = ConsumerLifetime(consumer, None, loop, lambda: None)
    loop.close()
    del consumer
    lifetime.stop()


@pytest.mark.usefixtures("restored")
def test_a_consumer_that_has_ended_ends_its_channel() -> None:
    class Leaving(Chat):
        async def connect(self, message: dict[str, Any]) -> None:
            await super().connect(message)
            raise StopConsumer

    async def main() -> None:
        layer = AnyioChannelLayer()
        channel_layers.set("default", layer)
        await (await connected(Leaving()))
        await soon(all_channels_ended(layer))

    asyncio.run(main())


def test_long_types_of_strangers_are_not_remembered() -> None:
    consumer = SimpleNamespace(**{"x" * 300: len})
    remembered = internals._handler_name.cache_info().currsize
    assert get_handler(cast(Any, consumer), {"type": "x" * 300}) is len
    assert internals._handler_name.cache_info().currsize == remembered
