"""``channels doctor``: findings of brokers, of a round trip and of the nodes; exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_anyio_channels import InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.core.inspection import Finding
from django_anyio_channels.django.nodes.reports import Reporter

from .conftest import Site, call, in_memory, project, refused, running_site


class Examined(InMemoryChannelLayer):
    """A broker with these findings."""

    address = "examined://"
    findings: list[Finding] = [Finding("ok", "All is well")]

    async def diagnose(self, largest_message: int) -> list[Finding]:
        assert largest_message == 4 * 1024 * 1024
        return self.findings


def findings(*words: str) -> list[dict[str, str]]:
    return json.loads(call("doctor", "--json", *words))["default"]  # type: ignore[no-any-return]


def test_all_is_well() -> None:
    config = in_memory(Examined)
    with project(default=config), running_site(**config):
        first, trip, nodes = findings("--fail-level", "warning")
        assert first == {"level": "ok", "text": "All is well", "cure": ""}
        assert trip["text"].startswith("A round trip through the broker takes ")
        assert nodes["text"] == "All other nodes (1) have the version and the clock of this command"
        assert call("doctor").startswith("default:\n  ok       All is well.\n")


def test_findings_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    with project(default=in_memory(Examined)):
        monkeypatch.setattr(Examined, "findings", [Finding("warning", "It is \x1bslow", "Make it quick")])
        assert "  warning  It is ?slow.\n           Make it quick.\n" in call("doctor")
        assert refused("doctor", "--fail-level", "warning")[0] == "1 of 2 findings are to be cured."
        monkeypatch.setattr(Examined, "findings", [Finding("error", "It is broken", "Repair it.")])
        reason, printed = refused("doctor")
        assert reason == "1 of 2 findings are to be cured."
        assert "  error    It is broken.\n           Repair it.\n" in printed


def test_memory_is_for_one_process() -> None:
    with project(default={}):
        first, trip, note = findings()
    assert (first["level"], trip["level"], note["level"]) == ("warning", "ok", "unknown")
    assert first["text"].startswith("memory:// carries messages within one process")


def test_a_broker_that_cannot_be_reached_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(self: Examined) -> None:
        raise ListenerClosed("the cable is out")

    monkeypatch.setattr(Examined, "connect", connect)
    with project(default=in_memory(Examined, publish_timeout=0.2)):
        reason, printed = refused("doctor")
    assert reason == "2 of 2 findings are to be cured."
    assert printed.count("the cable is out") == 2


def test_nodes_that_differ(site: Site, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make = Reporter.make
    theirs = site.layer._dispatcher.nodes[0]

    async def differ(self: Reporter, details: bool) -> Any:
        report = await make(self, details)
        if self._node is theirs:
            report.version, report.clock = "9.9", report.clock + 100
        return report

    monkeypatch.setattr(Reporter, "make", differ)
    versions, clocks = findings()[-2:]
    assert versions["level"] == clocks["level"] == "warning"
    assert versions["text"].startswith("Nodes run the version 9.9 of this package, and this command ")
    assert clocks["text"].startswith(f"The clock of node {theirs.id} (")
    assert clocks["text"].endswith("s ahead of this one")
