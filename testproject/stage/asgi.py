"""The chat and the stage as one ASGI application."""

from typing import Any

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.urls import path

from config.asgi import application as chat  # sets Django up, which what follows needs

# isort: split
from chat.embedded import EmbeddedWorker
from chat.routing import background, sockets
from stage.consumers import Chat, Devices, Stage
from stage.jobs import JOBS, Worker

# Any, because the types of Django's path() know views only.
room: Any = Chat.as_asgi()
panel: Any = Stage.as_asgi()
devices: Any = Devices.as_asgi()
urls = URLRouter([path("ws/", room), path("ws/stage/", panel), path("ws/stage/devices/", devices), *sockets])
channels: dict[str, Any] = {**background, JOBS: Worker.as_asgi()}

application: Any = ProtocolTypeRouter(
    {"http": chat, "websocket": AllowedHostsOriginValidator(urls), "channel": ChannelNameRouter(channels)}
)
if settings.EMBEDDED_WORKER:
    application = EmbeddedWorker(application, list(channels))
