"""Which consumer serves which path, and which normal channel."""

from __future__ import annotations

from typing import Any

from django.urls import path, re_path

from chat.consumers import ChatConsumer, Nowhere
from chat.protocol import WORKER
from chat.worker import Reckoner

# Any, because the types of Django's path() know views only.
chat: Any = ChatConsumer.as_asgi()
nowhere: Any = Nowhere.as_asgi()

sockets: list[Any] = [path("ws/", chat), re_path("", nowhere)]
background: dict[str, Any] = {WORKER: Reckoner.as_asgi()}
