"""Real servers are scraped over HTTP, and a trace leads from a view to the consumers, also in another process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.asgi.client import PATIENCE, client
from tests.asgi.observed.consumers import GROUP, KINDS
from tests.asgi.serving import noise, serve
from tests.support.brokers import redis
from tests.support.brokers.server import Server, running

OBSERVED = "tests.asgi.observed"


@pytest.fixture(params=["memory", "redis", "redis+streams"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def servers(kind: str) -> Iterator[tuple[Server, Server]]:
    """One that sends and one that has consumers; in memory that is the same."""
    with ExitStack() as stack:
        url = "memory://"
        if kind != "memory":
            broker = redis.plain()
            stack.enter_context(redis.running(broker))
            url = redis.with_streams(broker.url) if kind == "redis+streams" else broker.url
        made = [serve("uvicorn", OBSERVED, url) for _ in range(1 if kind == "memory" else 2)]
        stack.enter_context(running(*made))
        yield made[0], made[-1]


def get(server: Server, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{server.port}/{path}", timeout=PATIENCE) as response:
        text: str = response.read().decode()
        return text


def spans(server: Server, name: str) -> list[dict[str, Any]]:
    return [span for span in json.loads(get(server, "spans")) if span["name"] == name]


def metrics(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of this package by name, as Prometheus reads them."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(get(server, "metrics")):
        for sample in family.samples:
            if sample.name.startswith("anyio_channels_"):
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(server: Server, name: str, **labels: str) -> float:
    [found] = [value for each, value in metrics(server)[name] if labels.items() <= each.items()]
    return found


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_from_a_view_to_the_consumers(kind: str, servers: tuple[Server, Server]) -> None:
    sender, receiver = servers
    with ExitStack() as stack:
        clients = [stack.enter_context(client(receiver, path)) for path in KINDS]
        view = get(sender, "send")
        received = [each.receive() for each in clients]
        # The consumers get the message as it was sent, in spans of their own.
        for each in received:
            assert {**each, "span": None} == {"type": "chat.message", "text": "hello", "span": None}
        [sent] = spans(sender, "send")
        [parent] = spans(sender, "view")
        assert sent["parent"] == parent["span"] == view
        assert sent["trace"] == parent["trace"]
        assert sent["kind"] == "PRODUCER"
        assert sent["attributes"] == {
            "messaging.system": kind,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": GROUP,
        }
        until(lambda: len(spans(receiver, "process")) == len(KINDS))
        handled = spans(receiver, "process")
        assert {span["span"] for span in handled} == {each["span"] for each in received}
        for span in handled:
            assert span["links"] == [[sent["trace"], sent["span"]]]
            assert span["kind"] == "CONSUMER"
            assert span["trace"] != sent["trace"]
            assert span["parent"] is None
        assert {span["attributes"]["code.function.name"] for span in handled} == {
            f"{consumer.__module__}.{consumer.__qualname__}.chat_message" for consumer in KINDS.values()
        }
        # Nothing is traced where the sender's span is not recorded.
        get(sender, "send?unrecorded")
        assert [each.receive() for each in clients] == 2 * [{"type": "chat.message", "text": "hello", "span": None}]
        assert len(spans(sender, "send")) == 1
        assert len(spans(receiver, "process")) == len(KINDS)

        labels = {"alias": "default", "broker": kind}
        assert value(sender, "anyio_channels_published_total", **labels) == 2
        assert value(sender, "anyio_channels_publish_seconds_count", **labels) == 2
        assert value(receiver, "anyio_channels_delivered_total", **labels) == 2 * len(KINDS)
        assert value(receiver, "anyio_channels_lag_seconds_count", **labels) == 2
        assert value(receiver, "anyio_channels_lag_seconds_bucket", **labels, le="+Inf") == 2
        assert 0 <= value(receiver, "anyio_channels_lag_seconds_sum", **labels) < 2 * PATIENCE
        assert value(receiver, "anyio_channels_members", **labels) == len(KINDS)
        assert value(receiver, "anyio_channels_channels", **labels) == len(KINDS)
        assert value(receiver, "anyio_channels_dropped_total", **labels, reason="capacity") == 0
        assert value(receiver, "anyio_channels_disconnected", **labels) == 0
        # No series for a group or a channel.
        names = {label for samples in metrics(receiver).values() for each, _ in samples for label in each}
        assert names == {"alias", "broker", "le", "reason", "result"}
    until(lambda: value(receiver, "anyio_channels_members") == 0)
    assert [noise(each) for each in servers] == ["", ""]
