"""Views that send to the consumers, within a span that is recorded or not, and that show spans and metrics."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tests.asgi.observed.consumers import GROUP

exporter = InMemorySpanExporter()

NOT_SAMPLED = NonRecordingSpan(SpanContext(1, 1, is_remote=True))


def send(request: HttpRequest) -> HttpResponse:
    layer = get_channel_layer()
    assert layer is not None
    message = {"type": "chat.message", "text": "hello"}
    if "unrecorded" in request.GET:
        with trace.use_span(NOT_SAMPLED):
            async_to_sync(layer.group_send)(GROUP, message)
        return HttpResponse()
    with trace.get_tracer(__name__).start_as_current_span("view") as span:
        async_to_sync(layer.group_send)(GROUP, message)
    return HttpResponse(f"{span.get_span_context().span_id:x}")


def spans(request: HttpRequest) -> HttpResponse:
    return JsonResponse([_shown(span) for span in exporter.get_finished_spans()], safe=False)


def _shown(span: ReadableSpan) -> dict[str, object]:
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "span": f"{span.context.span_id:x}",
        "trace": f"{span.context.trace_id:x}",
        "parent": f"{span.parent.span_id:x}" if span.parent else None,
        "links": [[f"{link.context.trace_id:x}", f"{link.context.span_id:x}"] for link in span.links],
        "attributes": dict(span.attributes or {}),
    }


def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)


urlpatterns = [path("send", send), path("spans", spans), path("metrics", metrics)]
