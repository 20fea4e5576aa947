"""``channels info``: what nodes and broker say, merged, and a sentence for what they cannot say."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest

from django_anyio_channels import InMemoryChannelLayer, PublishResult
from django_anyio_channels.django.nodes import reports
from django_anyio_channels.django.nodes.control import Reports
from django_anyio_channels.django.nodes.reports import Reporter

from .conftest import Site, call, in_memory, project, running_site

NO_DEAD_LETTERS = (
    "InMemoryChannelLayer cannot list dead letters; use a layer that can: redis+streams://, or postgresql:// with a "
    "history_length"
)


class Vague(InMemoryChannelLayer):
    """Like an MQTT broker: it does not count, and queues are at the nodes."""

    address = "vague://"
    queues_are_at_nodes = True

    async def publish(self, group: str, message: bytes) -> PublishResult:
        await super().publish(group, message)
        return PublishResult()


class Silent(InMemoryChannelLayer):
    """A layer of somebody's own, which supports no inspection."""

    address = "silent://"
    inspect_queues = None  # type: ignore[assignment]


def info(*words: str) -> Any:
    return json.loads(call("info", "--json", *words))["default"]


def test_what_the_nodes_have_is_added_up(site: Site, config: dict[str, Any]) -> None:
    with running_site(**config) as other:
        for group in ("room", "room", "hall"):
            site.new_member(group)
        name = other.new_member("room")
        site.run(lambda layer: layer.send(name, {"type": "x"}))
        other.run(lambda layer: layer.send("jobs", {"type": "x"}))
        found = info()
        assert found["groups"] == {"room": {"members": 3, "nodes": 2}, "hall": {"members": 1, "nodes": 1}}
        assert sorted(node["channels"] for node in found["nodes"]) == [1, 3]
        assert sorted(node["unread_channels"] for node in found["nodes"]) == [0, 1]
        assert max(node["oldest_seconds"] for node in found["nodes"]) > 0
        [jobs] = found["channels"]
        assert 0 <= jobs.pop("oldest_seconds") < 60
        assert jobs == {"channel": "jobs", "waiting": 1, "pending": 0, "readers": 0, "capacity": 100}
        assert found["notes"] == [
            "memory:// carries messages within one process, so this command sees nothing of the others",
            NO_DEAD_LETTERS,
        ]
        printed = call("info")
        assert "room   3        2" in printed
        assert "jobs     1 of 100" in printed
        assert "Dead letters\nNone." in printed
        assert found["notes"][0] + "." in printed


def test_a_broker_that_does_not_count_and_holds_no_queues() -> None:
    config = in_memory(Vague)
    with project(default=config), running_site(**config) as site:
        site.run(lambda layer: layer.send("jobs", {"type": "x"}))
        found = info("--timeout", "5")
        assert [each["channel"] for each in found["channels"]] == ["jobs"]
        assert len(found["nodes"]) == 1
        assert "vague:// does not say how many nodes there are; those that replied in time are shown" in found["notes"]


def test_a_layer_that_knows_nothing_of_its_queues() -> None:
    with project(default=in_memory(Silent)):
        found = info()
    assert found["channels"] == found["nodes"] == []
    assert "Silent does not say what its queues hold" in found["notes"]


def test_what_was_left_out_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_NAMES", 1)
    config = in_memory(Vague)
    with project(default=config), running_site(**config) as site:
        site.new_member("room", "hall")
        site.new_member("room")
        for channel in ("jobs", "mail"):
            site.run(lambda layer, channel=channel: layer.send(channel, {"type": "x"}))  # type: ignore[misc]
        found = info()
    assert found["groups"] == {"room": {"members": 2, "nodes": 1}}
    assert len(found["channels"]) == 1
    [node] = found["nodes"]
    assert f"Node {node['node']} holds more normal channels than are shown" in found["notes"]
    assert any(note.startswith("1 groups or more are not shown") for note in found["notes"])


def test_nodes_that_do_not_report_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    make = Reporter.make

    async def fail(self: Reporter, details: bool) -> Any:
        if self._node is silent[0]:
            raise RuntimeError("bug")
        return await make(self, details)

    monkeypatch.setattr(Reporter, "make", fail)
    config = in_memory(type("Counting", (InMemoryChannelLayer,), {"address": "counting://"}))
    with ExitStack() as stack:
        stack.enter_context(project(default=config))
        sites = [stack.enter_context(running_site(**config)) for _ in range(2)]
        silent = sites[0].layer._dispatcher.nodes
        found = info("--timeout", "0.5")
    assert len(found["nodes"]) == 1
    assert found["notes"][0] == "1 of 2 nodes did not reply in time: something blocks their event loops"


def test_a_node_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from django_anyio_channels.django.commands.info import notes_of

    config = in_memory(type("Counting", (InMemoryChannelLayer,), {"address": "counting://"}))
    with project(default=config), running_site(**config) as site:
        replies = Reports({}, 1, ["Node 1 does not know\x1b[2J 'statistics'"], "0", 0.0)
        assert notes_of(replies, site.layer) == ["A node did not report: Node 1 does not know?[2J 'statistics'"]
