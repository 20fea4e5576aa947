"""What docs/guides/monitoring.rst says is what the sources do, and its samples work."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import docutils.nodes
import prometheus_client
import pytest
from django.http import HttpRequest

from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.telemetry.metrics import LAG, METRICS, PUBLISH_TIME, Metric
from tests.support.programs import QUIET_ASYNCIO

from .pages import cells_of, page

PAGE = page("docs/guides/monitoring.rst")
ALL = (*METRICS, PUBLISH_TIME, LAG)


def samples(metric: Metric) -> set[str]:
    """The names of its samples in Prometheus."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    return {metric.name + suffix for suffix in suffixes[metric.kind]}


def shown_name(metric: Metric) -> str:
    return metric.name + ("_total" if metric.kind == "counter" else "")


def test_the_settings_are_settings() -> None:
    assert read_config(PAGE.run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"]).telemetry == ("prometheus",)


def test_every_metric_is_in_the_table_with_its_type_labels_and_meaning() -> None:
    assert [[name, *cells] for name, cells in PAGE.rows("metrics").items()] == [
        [
            shown_name(metric),
            metric.kind,
            f"{metric.label}: {', '.join(metric.keys)}" if metric.label else "",
            metric.meaning,
        ]
        for metric in ALL
    ]


def test_the_names_in_opentelemetry_are_documented() -> None:
    [table] = [table for table in PAGE.document.findall(docutils.nodes.table) if "metrics" not in table["classes"]]
    documented = {name: instrument for name, [instrument] in cells_of(table).items()}
    regular = {shown_name(each): f"anyio_channels.{each.name.removeprefix('anyio_channels_')}" for each in ALL}
    actual = {shown_name(metric): metric.instrument for metric in ALL}
    assert documented.items() <= actual.items()
    assert {**regular, **documented} == actual


@pytest.mark.parametrize("name", ["alerts", "panels"])
def test_expressions_name_metrics_that_exist(name: str) -> None:
    named = set(re.findall(r"anyio_channels_\w+", PAGE.code(name)))
    assert len(named) >= 6
    assert named <= {sample for metric in ALL for sample in samples(metric)}
    labels = {label for group in re.findall(r"by \(([^)]*)\)", PAGE.code(name)) for label in group.split(", ")}
    assert labels <= {"alias", "broker", "le", *(metric.label for metric in ALL)}


def test_each_process_serves_its_metrics_on_a_port_of_its_own() -> None:
    servers: list[Any] = []

    def start(*arguments: Any) -> None:
        servers.append(prometheus_client.start_http_server(*arguments))

    found = PAGE.run("ports")
    serve: Callable[[list[int]], int] = found["serve_metrics"]
    found["start_http_server"] = start
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        taken, free = [each.getsockname()[1] for each in held]
        with pytest.raises(RuntimeError, match="No port is free"):
            serve([taken, free])
        held[1].close()
        assert serve([taken, free]) == free
    [(server, thread)] = servers
    try:
        with urlopen(f"http://127.0.0.1:{free}/metrics", timeout=20) as response:
            assert b"python_info" in response.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_view_answers_as_prometheus_expects() -> None:
    response = PAGE.run("view")["metrics"](HttpRequest())
    assert response.status_code == 200
    assert response["Content-Type"] == prometheus_client.CONTENT_TYPE_LATEST
    assert b"# TYPE python_info gauge" in response.content


PROGRAM = (
    QUIET_ASYNCIO
    + """
import asyncio
from django.conf import settings
{settings}
CHANNEL_LAYERS["default"]["CONFIG"] = {{"telemetry": "opentelemetry"}}
settings.configure(CHANNEL_LAYERS=CHANNEL_LAYERS)
{tracing}
{receiving}

async def handle(message):
    assert message == {{"type": "x"}}

async def main():
    await get_channel_layer().send("jobs", {{"type": "x"}})
    await handle_next("jobs", handle)

asyncio.run(main())
"""
)


def test_a_program_that_receives_makes_the_link() -> None:
    program = PROGRAM.format(**{name: PAGE.code(name) for name in ("settings", "tracing", "receiving")})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    sent, processed = re.findall(r'"name": "(\w+)",\s+"context": {\s+"trace_id": "(\w+)"', done.stdout)
    assert (sent[0], processed[0]) == ("send", "process")
    assert re.search(rf'"links": \[\s+{{\s+"context": {{\s+"trace_id": "{sent[1]}"', done.stdout)
