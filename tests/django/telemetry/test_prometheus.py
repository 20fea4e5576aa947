"""`telemetry.prometheus`: the collector, in one process. tests/asgi scrapes real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from channels.layers import channel_layers
from django.test import override_settings
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from django_anyio_channels import AnyioChannelLayer, PrometheusCollector, get_channel_layer
from django_anyio_channels.core.telemetry import BUCKETS
from django_anyio_channels.django.telemetry.metrics import LAG, METRICS, PUBLISH_TIME
from django_anyio_channels.django.telemetry.prometheus import register

BACKEND = "django_anyio_channels.AnyioChannelLayer"


@pytest.fixture
def layers() -> Iterator[tuple[AnyioChannelLayer, ...]]:
    """Two that are measured, and one that is not."""
    configs = {"default": {"telemetry": "prometheus"}, "other": {"telemetry": ["prometheus"]}, "unmeasured": {}}
    entries = {alias: {"BACKEND": BACKEND, "CONFIG": config} for alias, config in configs.items()}
    entries["foreign"] = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {}}
    with override_settings(CHANNEL_LAYERS=entries):
        assert not isinstance(channel_layers["foreign"], AnyioChannelLayer)
        yield tuple(get_channel_layer(alias) for alias in configs)


def test_a_registry_has_every_metric_of_every_alias(layers: tuple[AnyioChannelLayer, ...]) -> None:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector())

    async def main() -> None:
        for layer in layers:
            await layer.group_add("g", await layer.new_channel())
            await layer.group_send("g", {"type": "x"})
        for alias in ("default", "other"):
            labels = {"alias": alias, "broker": "memory"}
            for metric in METRICS:
                suffix = "_total" if metric.kind == "counter" else ""
                for value in metric.keys:
                    extra = {metric.label: value} if metric.label else {}
                    sample = registry.get_sample_value(metric.name + suffix, labels | extra)
                    assert (sample is None) is (metric.name in ("anyio_channels_queued", "anyio_channels_pending"))
            for metric in (PUBLISH_TIME, LAG):
                assert registry.get_sample_value(metric.name + "_count", labels) == 1
                counts = [
                    registry.get_sample_value(metric.name + "_bucket", {**labels, "le": bound})
                    for bound in (*map(str, BUCKETS), "+Inf")
                ]
                assert counts == sorted(counts, key=float)  # type: ignore[arg-type]
                assert counts[-1] == 1
        text = generate_latest(registry).decode()
        assert "unmeasured" not in text
        assert "foreign" not in text
        assert "# TYPE anyio_channels_dropped_total counter" in text

    asyncio.run(main())


def test_the_default_registry_gets_one_collector(layers: tuple[AnyioChannelLayer, ...]) -> None:
    register()
    found = [each for each in REGISTRY._collector_to_names if isinstance(each, PrometheusCollector)]
    assert len(found) == 1
