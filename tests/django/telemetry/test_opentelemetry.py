"""`telemetry.opentelemetry`: the instruments, as the SDK collects them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from django_anyio_channels import AnyioChannelLayer, get_channel_layer
from django_anyio_channels.core.telemetry import BUCKETS
from django_anyio_channels.django.telemetry import opentelemetry
from django_anyio_channels.django.telemetry.metrics import LAG, METRICS, PUBLISH_TIME


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AnyioChannelLayer, ...]]:
    """One that is measured, and one that is not. Each collection looks for itself."""
    opentelemetry._statistics.cache_clear()
    entries = {
        alias: {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": config}
        for alias, config in {"measured": {"telemetry": ["opentelemetry", "prometheus"]}, "other": {}}.items()
    }
    with override_settings(CHANNEL_LAYERS=entries):
        yield tuple(get_channel_layer(alias) for alias in entries)
    opentelemetry._statistics.cache_clear()


def collected(reader: InMemoryMetricReader) -> dict[str, tuple[str, list[Any]]]:
    """The unit and the points of each instrument."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: (metric.unit or "", list(metric.data.data_points))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        if scope.scope.name == opentelemetry.SCOPE
        for metric in scope.metrics
    }


def test_every_metric_is_an_instrument(layers: tuple[AnyioChannelLayer, ...], reader: InMemoryMetricReader) -> None:
    async def main() -> dict[str, tuple[str, list[Any]]]:
        for layer in layers:
            await layer.group_add("g", await layer.new_channel())
            await layer.group_send("g", {"type": "x"})
        return collected(reader)

    found = asyncio.run(main())
    common = {"messaging.system": "memory", "anyio_channels.alias": "measured"}
    for metric in METRICS:
        if metric.name in ("anyio_channels_queued", "anyio_channels_pending"):
            assert not found.get(metric.instrument, ("", []))[1]
            continue
        unit, points = found[metric.instrument]
        assert unit == metric.unit
        assert len(points) == len(metric.keys)
        for point in points:
            assert isinstance(point, NumberDataPoint)
            assert common.items() <= dict(point.attributes or {}).items()
    assert found["anyio_channels.members"][1][0].value == 1
    for name, operation in {
        "messaging.client.sent.messages": "send",
        "messaging.client.consumed.messages": "receive",
    }.items():
        [point] = found[name][1]
        assert (point.value, point.attributes["messaging.operation.name"]) == (1, operation)
    assert {point.attributes["anyio_channels.reason"] for point in found["anyio_channels.dropped"][1]} == {
        *("capacity", "bytes", "queue", "undecodable")
    }
    for metric in (PUBLISH_TIME, LAG):
        [point] = [each for each in found[metric.instrument][1] if common.items() <= each.attributes.items()]
        assert isinstance(point, HistogramDataPoint)
        assert point.count == 1
        assert tuple(point.explicit_bounds) == BUCKETS


def test_the_instruments_of_a_collection_look_at_the_layers_once(
    layers: tuple[AnyioChannelLayer, ...], reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[AnyioChannelLayer] = []

    def look(layer: AnyioChannelLayer) -> dict[str, float]:
        looks.append(layer)
        return {"nodes": 7}

    monkeypatch.setattr(opentelemetry, "monotonic", lambda: 5.0)
    monkeypatch.setattr(AnyioChannelLayer, "statistics", look)
    assert collected(reader)["anyio_channels.nodes"][1][0].value == 7
    assert looks == [layers[0]]
