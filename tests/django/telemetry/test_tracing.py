"""`telemetry.tracing`: what a message carries, and what becomes of it at a consumer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import MessageTooLarge, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.test import override_settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer, PublishResult
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.django.telemetry.context import CONTEXT_KEY
from django_anyio_channels.django.telemetry.tracing import Tracing, take_trace_context
from tests.django.helpers import soon

NOT_SAMPLED = NonRecordingSpan(SpanContext(1, 1, is_remote=True))
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
encode = MessagePackSerializer().encode
decode = MessagePackSerializer().decode


class WatchedLayer(InMemoryChannelLayer):
    """Keeps what is published and put, as the broker gets it."""

    seen: deque[bytes]

    def __init__(self, *, broker: InMemoryBroker, seen: deque[bytes]) -> None:
        super().__init__(broker=broker)
        self.seen = seen

    async def publish(self, group: str, message: bytes) -> PublishResult:
        self.seen.append(message)
        return await super().publish(group, message)

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        self.seen.append(message)
        return super().publish_blocking(group, message)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        self.seen.append(message)
        await super().put(queue, message, capacity=capacity, expiry=expiry)

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        self.seen.append(message)
        super().put_blocking(queue, message, capacity=capacity, expiry=expiry)


def watched(
    *, telemetry: object = "opentelemetry", of: InMemoryBroker | None = None, **config: Any
) -> tuple[AnyioChannelLayer, deque[bytes]]:
    """A layer, and the frames that its broker gets."""
    seen: deque[bytes] = deque()
    options = {"broker": of or InMemoryBroker(), "seen": seen}
    return AnyioChannelLayer(layer=WatchedLayer, options=options, telemetry=telemetry, **config), seen


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def context_of(span: ReadableSpan) -> SpanContext:
    context: SpanContext | None = span.context
    assert context is not None
    return context


def test_a_frame_carries_the_context_of_a_recorded_span_only(exporter: InMemorySpanExporter) -> None:
    message = {"type": "x", "text": "hello"}

    async def main() -> None:
        layer, seen = watched()
        channel = await layer.new_channel()
        with trace.use_span(NOT_SAMPLED):
            await layer.group_send("g", message)
            await layer.send("jobs", message)
            await layer.send(channel, message)
            await asyncio.to_thread(layer.group_send_sync, "g", message)
        assert list(seen) == [
            encode(message),
            encode(message),
            channel.encode() + b"\n" + encode(message),
            encode(message),
        ]
        assert not exporter.get_finished_spans()
        seen.clear()
        await layer.group_send(group="g", message=message)
        await layer.send("jobs", message)
        await layer.send(channel, message)
        await asyncio.to_thread(layer.group_send_sync, "g", message)
        await asyncio.to_thread(layer.send_sync, "jobs", message)
        frames = [decode(frame.partition(b"\n")[2] or frame) for frame in seen]
        spans = [context_of(span) for span in named(exporter, "send")]
        assert frames == [
            {
                **message,
                CONTEXT_KEY: {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"},
            }
            for span in spans
        ]
        assert len(frames) == 5
        assert message == {"type": "x", "text": "hello"}, "the sender's own is left as it is"
        destinations = [dict(span.attributes or {}) for span in named(exporter, "send")]
        assert [each["messaging.destination.name"] for each in destinations] == ["g", "jobs", channel, "g", "jobs"]
        assert ["messaging.destination.temporary" in each for each in destinations] == [
            False,
            False,
            True,
            False,
            False,
        ]
        assert {each["messaging.system"] for each in destinations} == {"custom"}

    asyncio.run(main())


def test_a_message_that_has_no_room_for_a_context_goes_without(exporter: InMemorySpanExporter) -> None:
    message = {"type": "x"}

    async def main() -> None:
        layer, seen = watched(max_message_size=20)
        await layer.group_send("g", message)
        await asyncio.to_thread(layer.group_send_sync, "g", message)
        assert list(seen) == 2 * [encode(message)]
        for large in ({"type": 20 * "x"}, {"type": "x", "rest": 200 * "x"}):
            with pytest.raises(MessageTooLarge):
                await layer.group_send("g", large)
            with pytest.raises(MessageTooLarge):
                await asyncio.to_thread(layer.group_send_sync, "g", large)
            with trace.use_span(NOT_SAMPLED):
                with pytest.raises(MessageTooLarge):
                    await layer.group_send("g", large)
                with pytest.raises(MessageTooLarge):
                    await asyncio.to_thread(layer.group_send_sync, "g", large)

    asyncio.run(main())
    failed = [span for span in named(exporter, "send") if span.status.status_code is StatusCode.ERROR]
    assert len(failed) == 4
    assert {(span.attributes or {})["error.type"] for span in failed} == {"MessageTooLarge"}
    assert all(span.events[0].name == "exception" for span in failed)


def test_sends_are_traced_after_a_test_has_captured_them(exporter: InMemorySpanExporter) -> None:
    async def run() -> None:
        layer, _ = watched()
        message = {"type": "x"}
        with layer.captured() as sent:
            await layer.group_send("g", message)
            await layer.group_send(["g"], message)
            await layer.user_send(5, message)
            await layer.send("c", message, idempotency_key="key")
        await layer.group_send("g", message)
        assert [seen for *_, seen in sent] == [message] * 4
        await layer.close()

    asyncio.run(run())
    assert len(named(exporter, "send")) == 5


def test_what_goes_to_users_and_to_websockets_has_spans(exporter: InMemorySpanExporter) -> None:
    async def run() -> None:
        layer, seen = watched()
        sync: list[Any] = [
            (layer.user_send_sync, (5, {"type": "x"}), {}),
            (layer.broadcast_sync, ("g",), {"text": "frame"}),
        ]
        await layer.user_send(5, {"type": "x"})
        await layer.broadcast("g", text="frame")
        await layer.user_close(5)
        for method, args, options in sync:
            await asyncio.to_thread(method, *args, **options)
        await asyncio.to_thread(layer.group_close_sync, "g")
        await layer.close()
        assert [CONTEXT_KEY.encode() in payload for payload in seen] == [True, False, False] * 2
        with pytest.raises(MessageTooLarge):
            await watched(max_message_size=100)[0].broadcast("g", text="x" * 200)

    asyncio.run(run())
    names = [(span.attributes or {}).get("messaging.destination.name") for span in named(exporter, "send")]
    assert names == [None, "g", None, None, "g", "g", "g"]


def test_what_is_no_message_is_refused_as_without_tracing() -> None:
    layer, _ = watched()
    with pytest.raises(TypeError, match="A message must be a dict, not list"):
        layer.group_send_sync("g", [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'message'"):
        asyncio.run(layer.group_send("g"))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Group name must be"):
        layer.group_send_sync(5, {"type": "x"})  # type: ignore[arg-type]


def test_the_context_is_encrypted_and_an_untraced_reader_sees_one_more_key() -> None:
    async def main() -> None:
        broker, keys = InMemoryBroker(), ["a key"]
        layer, seen = watched(of=broker, symmetric_encryption_keys=keys)
        untraced, _ = watched(of=broker, symmetric_encryption_keys=keys, telemetry=[])
        channel = await untraced.new_channel()
        await untraced.group_add("g", channel)
        await layer.group_send("g", {"type": "x"})
        assert not any(b"trace" in frame for frame in seen)
        received = await soon(untraced.receive(channel))
        assert received.keys() == {"type", CONTEXT_KEY}
        # A program that receives by itself makes a link of it.
        context = take_trace_context(received)
        assert context is not None
        assert context.is_remote
        assert received == {"type": "x"}

    asyncio.run(main())


@pytest.mark.parametrize(
    "forged",
    [
        None,
        5,
        "text",
        [],
        {},
        {"traceparent": 5},
        {"traceparent": "nonsense"},
        {"traceparent": TRACEPARENT.replace("b7ad6b7169203331", 16 * "0")},
        {"traceparent": TRACEPARENT + 1000 * "-"},
        {b"traceparent": TRACEPARENT},
        {"tracestate": "a=b"},
    ],
)
def test_a_forged_context_is_none(forged: object, caplog: pytest.LogCaptureFixture) -> None:
    message = {"type": "x", CONTEXT_KEY: forged}
    with caplog.at_level(logging.DEBUG):
        assert take_trace_context(message) is None
    assert message == {"type": "x"}
    assert not caplog.records


def test_the_state_of_a_trace_is_kept_unless_it_is_too_long() -> None:
    states = [
        take_trace_context({CONTEXT_KEY: {"traceparent": TRACEPARENT, "tracestate": state}})
        for state in ("vendor=1", "vendor=" + 600 * "x", 5)
    ]
    assert [state and dict(state.trace_state) for state in states] == [{"vendor": "1"}, {}, {}]
    assert take_trace_context("no dict") is None


# ---- consumers -----------------------------------------------------------------------------------------------------


class Recording(AsyncWebsocketConsumer):
    """Tells its client what its handler was given."""

    groups = ["g"]

    async def chat_message(self, message: dict[str, Any]) -> None:
        await self.send(text_data=f"{sorted(message)}")

    async def chat_broken(self, message: dict[str, Any]) -> None:
        raise ZeroDivisionError("broken")

    async def chat_end(self, message: dict[str, Any]) -> None:
        raise StopConsumer


class WithItsOwnDispatch(Recording):
    async def dispatch(self, message: dict[str, Any]) -> None:
        await super().dispatch(message)


class WithDispatchOfItsInstance(Recording):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dispatch = super().dispatch  # type: ignore[method-assign]


@pytest.fixture
def layer() -> Iterator[AnyioChannelLayer]:
    """The layer of this process's consumers."""
    config = {"telemetry": "opentelemetry"}
    backend = "django_anyio_channels.AnyioChannelLayer"
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": config}}):
        found = channel_layers["default"]
        assert isinstance(found, AnyioChannelLayer)
        yield found


def run_with(
    consumer: type[AsyncConsumer], then: Callable[[WebsocketCommunicator], Any], exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        communicator = WebsocketCommunicator(consumer.as_asgi(), "/")
        await communicator.connect()
        exporter.clear()
        await soon(then(communicator))

    asyncio.run(main())


@pytest.mark.parametrize("consumer", [Recording, WithItsOwnDispatch, WithDispatchOfItsInstance])
def test_each_message_is_handled_in_a_span_of_its_own(
    consumer: type[Recording], layer: AnyioChannelLayer, exporter: InMemorySpanExporter
) -> None:
    async def main(communicator: WebsocketCommunicator) -> None:
        for _ in range(3):  # in one go
            await layer.group_send("g", {"type": "chat.message"})
        with trace.use_span(NOT_SAMPLED):
            await layer.group_send("g", {"type": "chat.message"})
        for _ in range(4):
            assert await communicator.receive_from() == "['type']"
        await communicator.disconnect()

    run_with(consumer, main, exporter)
    sent, handled = named(exporter, "send"), named(exporter, "process")
    assert [span.links[0].context.span_id for span in handled] == [context_of(span).span_id for span in sent]
    assert len(handled) == 3
    for span in handled:
        assert span.kind is SpanKind.CONSUMER
        assert span.status.status_code is StatusCode.UNSET
        assert dict(span.attributes or {}) == {
            "messaging.system": "memory",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "code.function.name": f"{__name__}.{consumer.__qualname__}.chat_message",
        }


def test_an_error_of_a_handler_is_in_its_span(layer: AnyioChannelLayer, exporter: InMemorySpanExporter) -> None:
    async def main(communicator: WebsocketCommunicator) -> None:
        await layer.group_send("g", {"type": "chat.broken"})
        with pytest.raises(ZeroDivisionError):
            await communicator.receive_from()

    run_with(Recording, main, exporter)
    [span] = named(exporter, "process")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ZeroDivisionError"


def test_a_consumer_that_ends_is_no_error(layer: AnyioChannelLayer, exporter: InMemorySpanExporter) -> None:
    async def main(communicator: WebsocketCommunicator) -> None:
        await layer.group_send("g", {"type": "chat.end"})
        await communicator.wait()

    run_with(Recording, main, exporter)
    [span] = named(exporter, "process")
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


def test_a_consumer_is_traced_once_whatever_channels_it_has() -> None:
    tracing, consumer = Tracing("memory"), Recording()
    tracing.trace_consumer(consumer)
    dispatch = consumer.dispatch
    tracing.trace_consumer(consumer)
    assert consumer.dispatch is dispatch
