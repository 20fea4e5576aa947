"""Turns on what ``telemetry`` in CONFIG names. Nothing else imports the packages that it needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from ...core.telemetry import Recorder
from ..sending.observers import Observer

NAMES = ("prometheus", "opentelemetry")


class Installed(NamedTuple):
    """What a layer calls for those who measure it."""

    new_recorder: Callable[[], Recorder | None] = lambda: None
    """Returns what to record with; None to measure nothing."""
    instrument: Callable[[Any], None] = lambda consumer: None
    """Called with each consumer that is about to begin."""
    observers: tuple[Observer, ...] = ()


def require_packages(names: Iterable[str]) -> None:
    """Raise `MissingDriver`, which names the extra to install, unless the packages are there."""
    for name in names:
        import_module(f".{name}", __package__)


def install(layer: Any) -> Installed:
    """Have a layer measured by those whom its ``telemetry`` names."""
    installed = Installed()
    if "prometheus" in layer.telemetry:
        from .prometheus import register

        register()
        installed = Installed(Recorder)
    if "opentelemetry" in layer.telemetry:
        from .opentelemetry import new_recorder, observe
        from .tracing import Tracing

        observe()
        tracing = Tracing(layer.broker)
        record = partial(new_recorder, weakref.ref(layer), layer.broker)
        installed = Installed(record, tracing.trace_consumer, (tracing.trace_send,))
    return installed
