"""The chat as one ASGI application, for Daphne, Uvicorn and ``runworker`` alike."""

import os
from typing import Any

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
pages = get_asgi_application()  # Sets Django up, which what is imported below needs.

from chat.embedded import EmbeddedWorker  # noqa: E402
from chat.routing import background, sockets  # noqa: E402

application: Any = ProtocolTypeRouter(
    {
        # No web server stands in front of a demo, so the application serves its own style sheet and script.
        "http": ASGIStaticFilesHandler(pages),
        "websocket": AllowedHostsOriginValidator(URLRouter(sockets)),
        "channel": ChannelNameRouter(background),
    }
)

if settings.CHANNEL_LAYER_URL.startswith("memory:"):
    # What is in memory cannot be reached from a second process, so `manage.py runworker` would wait for ever.
    application = EmbeddedWorker(application, list(background))
