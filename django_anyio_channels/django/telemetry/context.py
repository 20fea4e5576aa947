"""A trace context in a message."""

from __future__ import annotations

from typing import Any

CONTEXT_KEY = "_trace_context"
"""The key of a message under which a trace context travels: a dict with what W3C calls ``traceparent`` and so on."""


class MessageWithContext(dict[str, Any]):
    """A message with the context of a span. `message` is the one without, for where there is no room."""

    def __init__(self, message: dict[str, Any], context: dict[str, str]) -> None:
        super().__init__(message)
        self[CONTEXT_KEY] = context
        self.message = message
