"""Spans of OpenTelemetry for what is sent and handled, by its semantic conventions for messaging.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

While a span of a sender is recorded, its context travels within the message, under `CONTEXT_KEY`: so it is encrypted
with it, and to a program that does not know it, it is one more key. The span of a consumer's handler has a link to it.
It is not its child: a message may come from anyone who may publish at the broker, and a parent decides what is sampled.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..sending.observers import Message, Sending
from .context import CONTEXT_KEY, MessageWithContext
from .opentelemetry import SCOPE  # before Channels and OpenTelemetry: its errors name the extras

# isort: split
from channels.consumer import get_handler_name
from channels.exceptions import StopConsumer
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_LONGEST_FIELD = 512
"""Characters; what W3C has a reader accept at least."""

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """The spans of one layer. It follows the tracer provider that the program has set, also later."""

    def __init__(self, broker: str) -> None:
        self._system = {"messaging.system": broker}
        self._tracer = trace.get_tracer(SCOPE)

    @contextmanager
    def trace_send(self, sending: Sending) -> Iterator[Message]:
        """Make a span, and put its context into a message that is for handlers; see `Observer`."""
        message = sending.message
        with self._span("send", SpanKind.PRODUCER, _destination(sending.names)) as span:
            if span.is_recording() and sending.is_for_handlers and isinstance(message, dict):
                carrier: dict[str, str] = {}
                _propagator.inject(carrier)
                message = MessageWithContext(message, carrier)
            yield message

    def trace_consumer(self, consumer: Any) -> None:
        """Have a consumer that is about to begin make a span for each message that carries a context."""
        if not isinstance(vars(consumer).get("dispatch"), _TracedDispatch):
            consumer.dispatch = _TracedDispatch(consumer, self)

    @contextmanager
    def processing(self, message: Any, handler: str) -> Iterator[None]:
        """The block handles a message, which loses its context."""
        context = take_trace_context(message)
        if context is None:
            yield
            return
        with self._span("process", SpanKind.CONSUMER, {"code.function.name": handler}, [Link(context)]):
            yield

    @contextmanager
    def _span(
        self, operation: str, kind: SpanKind, attributes: Mapping[str, Any], links: list[Link] | None = None
    ) -> Iterator[Span]:
        named = {"messaging.operation.name": operation, "messaging.operation.type": operation}
        with self._tracer.start_as_current_span(
            operation,
            kind=kind,
            attributes={**self._system, **named, **attributes},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except StopConsumer:
                raise  # how a consumer ends
            except Exception as error:
                span.record_exception(error)
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise


def _destination(name: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        return {}
    return {"messaging.destination.name": name, **({"messaging.destination.temporary": True} if "!" in name else {})}


def take_trace_context(message: Any) -> SpanContext | None:
    """Remove the trace context from a message and return it; None if there is no valid one.

    For programs that call ``receive`` themselves: it is for the links of the span in which they handle the message.
    """
    carrier = message.pop(CONTEXT_KEY, None) if isinstance(message, dict) else None
    if not isinstance(carrier, dict):
        return None
    fields = {
        name: value
        for name in _propagator.fields
        if isinstance(value := carrier.get(name), str) and len(value) <= _LONGEST_FIELD
    }
    context = trace.get_current_span(_propagator.extract(fields, Context())).get_span_context()
    return context if context.is_valid else None


class _TracedDispatch:
    """A consumer's own ``dispatch``, within a span."""

    __slots__ = ("_consumer", "_of_instance", "_original", "_tracing")

    def __init__(self, consumer: Any, tracing: Tracing) -> None:
        self._consumer = weakref.ref(consumer)
        self._original = inspect.getattr_static(consumer, "dispatch")
        self._of_instance = "dispatch" in vars(consumer)
        self._tracing = tracing

    async def __call__(self, message: Any) -> None:
        consumer = self._consumer()
        dispatch = self._original
        if not self._of_instance and hasattr(dispatch, "__get__"):
            dispatch = dispatch.__get__(consumer, type(consumer))
        with self._tracing.processing(message, _handler(consumer, message)):
            await dispatch(message)


def _handler(consumer: Any, message: Any) -> str:
    kind = type(consumer)
    return f"{kind.__module__}.{kind.__qualname__}.{get_handler_name(message)}"
