"""A collector for ``prometheus_client``, which reads the numbers of the layers when it is scraped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from threading import Lock

from ...core.exceptions import MissingDriver
from ...core.telemetry import BUCKETS, Histogram
from .metrics import LAG, METRICS, PUBLISH_TIME, Metric
from .sources import Measurements, sources

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as MetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDriver(
        "Metrics for Prometheus need prometheus_client: pip install django-anyio-channels[prometheus]"
    ) from error

_LABELS = ["alias", "broker"]


class PrometheusCollector(Collector):
    """Collects the metrics of every layer in this process that has ``"prometheus"`` under ``telemetry`` in CONFIG.

    The first such layer registers one with ``prometheus_client.REGISTRY``. Another registry needs one of its own.
    """

    def describe(self) -> Iterable[MetricFamily]:
        """Return no metrics: a registry need not read them when this is registered."""
        return []

    def collect(self) -> Iterator[MetricFamily]:
        found = [([alias, source.broker], source.measurements()) for alias, source in sources("prometheus")]
        for metric in METRICS:
            yield _family(metric, found)
        yield _histogram(PUBLISH_TIME, [(labels, each.publish_time) for labels, each in found])
        yield _histogram(LAG, [(labels, each.lag) for labels, each in found])


def _family(metric: Metric, found: list[tuple[list[str], Measurements]]) -> MetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=[*_LABELS, *filter(None, [metric.label])])
    for labels, (statistics, *_) in found:
        for value, key in metric.keys.items():
            if key in statistics:
                family.add_metric([*labels, *filter(None, [value])], statistics[key])
    return family


def _histogram(metric: Metric, found: list[tuple[list[str], Histogram]]) -> MetricFamily:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=_LABELS)
    for labels, histogram in found:
        bounds = [*map(str, BUCKETS), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family


_lock = Lock()
_is_registered = False


def register() -> None:
    """Register a collector with the default registry, once in a process."""
    global _is_registered
    with _lock:
        if not _is_registered:
            REGISTRY.register(PrometheusCollector())
            _is_registered = True
