"""No pages: the tests speak WebSocket."""

from typing import Any

urlpatterns: list[Any] = []
