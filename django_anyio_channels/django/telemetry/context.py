"""Where a trace context stands in a message."""

from __future__ import annotations

CONTEXT_KEY = "_trace_context"
"""The key of a message under which a trace context travels: a dict with what W3C calls ``traceparent`` and so on."""
