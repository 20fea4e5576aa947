"""The metrics as instruments of OpenTelemetry, named by its semantic conventions for messaging where these have a name.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from time import monotonic

from ...core.exceptions import MissingDriver
from ...core.telemetry import BUCKETS, Observe, Recorder
from .metrics import LAG, METRICS, PUBLISH_TIME, Metric
from .sources import alias_of, sources

try:
    from opentelemetry.metrics import CallbackOptions, Histogram, Observation, get_meter
except ImportError as error:
    raise MissingDriver(
        "Metrics and traces for OpenTelemetry need opentelemetry-api: pip install django-anyio-channels[opentelemetry]"
    ) from error

SCOPE = "django_anyio_channels"
"""The name of the instrumentation scope."""

_COLLECTION_SECONDS = 0.1

_OPERATIONS = {
    "messaging.client.sent.messages": "send",
    "messaging.client.operation.duration": "send",
    "messaging.client.consumed.messages": "receive",
}


def attributes(metric: Metric, alias: str, broker: str) -> dict[str, str]:
    """Return the attributes of a metric of one layer."""
    found = {"messaging.system": broker, "anyio_channels.alias": alias}
    if metric.instrument in _OPERATIONS:
        found["messaging.operation.name"] = _OPERATIONS[metric.instrument]
    return found


@lru_cache(maxsize=1)
def observe() -> None:
    """Create the instruments that are read when a reader collects, once in a process."""
    meter = get_meter(SCOPE)
    for metric in METRICS:
        create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        create(metric.instrument, [_callback(metric)], metric.unit, metric.meaning)


def _callback(metric: Metric) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def read(options: CallbackOptions) -> Iterator[Observation]:
        for alias, broker, statistics in _statistics(int(monotonic() / _COLLECTION_SECONDS)):
            for value, key in metric.keys.items():
                if key in statistics:
                    label = {f"anyio_channels.{metric.label}": value} if metric.label else {}
                    yield Observation(statistics[key], attributes(metric, alias, broker) | label)

    return read


@lru_cache(maxsize=1)
def _statistics(moment: int) -> list[tuple[str, str, dict[str, float]]]:
    """Return alias, broker and numbers of each layer; the instruments of one collection share them."""
    return [(alias, source.broker, source.statistics()) for alias, source in sources("opentelemetry")]


def new_recorder(layer: weakref.ref[object], broker: str) -> Recorder:
    """Return a recorder that gives its times to the histograms of OpenTelemetry as well."""
    return Recorder(*(_record(metric, layer, broker) for metric in (PUBLISH_TIME, LAG)))


def _record(metric: Metric, layer: weakref.ref[object], broker: str) -> Observe:
    record = _histogram(metric.instrument, metric.unit, metric.meaning).record

    @lru_cache(maxsize=1)
    def found() -> dict[str, str]:
        # Not before: Channels gives a layer its alias when it is made.
        return attributes(metric, alias_of(layer()), broker)

    return lambda seconds: record(seconds, found())


@lru_cache
def _histogram(name: str, unit: str, meaning: str) -> Histogram:
    return get_meter(SCOPE).create_histogram(name, unit, meaning, explicit_bucket_boundaries_advisory=BUCKETS)
