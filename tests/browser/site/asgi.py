"""The application that the servers of the tests serve."""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.browser.site.settings")
pages = get_asgi_application()  # Sets Django up, which what is imported below needs.

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

from tests.browser.site.consumers import Fragments, Room, SyncRoom  # noqa: E402

# Any, because the types of Django's path() know views only.
sockets: list[Any] = [
    path("ws/", Room.as_asgi()),  # type: ignore[arg-type]
    path("sync/", SyncRoom.as_asgi()),  # type: ignore[arg-type]
    path("fragments/", Fragments.as_asgi()),  # type: ignore[arg-type]
]


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Do what Granian complains of if nobody does it."""
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


application: Any = ProtocolTypeRouter(
    {"http": ASGIStaticFilesHandler(pages), "websocket": URLRouter(sockets), "lifespan": lifespan}
)
