"""The measured application, with the SDK of OpenTelemetry, which keeps the spans in memory."""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.asgi.observed.settings")
pages = get_asgi_application()  # Sets Django up, which what is imported below needs.

from tests.asgi.observed.consumers import KINDS  # noqa: E402
from tests.asgi.observed.urls import exporter  # noqa: E402

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

# Any, because the types of Django's path() know views only.
consumers: dict[str, Any] = {kind: consumer.as_asgi() for kind, consumer in KINDS.items()}
sockets: list[Any] = [path(kind, consumer) for kind, consumer in consumers.items()]
application: Any = ProtocolTypeRouter({"http": pages, "websocket": URLRouter(sockets)})
