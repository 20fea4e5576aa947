"""The application that the servers of the tests serve."""

import os
from typing import Any

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.asgi.site.settings")
pages = get_asgi_application()  # Sets Django up, which what is imported below needs.

from chat.embedded import EmbeddedWorker  # noqa: E402
from tests.asgi.site.consumers import JOBS, KINDS, RESUMING, Worker  # noqa: E402

# Any, because the types of Django's path() know views only.
consumers: dict[str, Any] = {kind: consumer.as_asgi() for kind, consumer in {**KINDS, **RESUMING}.items()}
sockets: list[Any] = [path(kind, application) for kind, application in consumers.items()]
background: dict[str, Any] = {JOBS: Worker.as_asgi()}

application: Any = ProtocolTypeRouter(
    {"http": pages, "websocket": URLRouter(sockets), "channel": ChannelNameRouter(background)}
)
if os.environ["CHANNEL_LAYER_URL"].startswith("memory:"):
    application = EmbeddedWorker(application, [JOBS])
