"""``manage.py channels doctor``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from ...core.diagnosis import clock_finding
from ...core.exceptions import ChannelLayerError
from ...core.inspection import Finding
from ..layer import AnyioChannelLayer
from ..nodes.reports import package_version
from .info import notes_of, others
from .running import Invocation, add_parser, printable


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = (
        "Connect to every broker, and say what to change: rights, memory, persistence, limits, versions, clocks, TLS."
    )
    parser = add_parser(subcommands, "doctor", text, _doctor)
    parser.add_argument(
        "--fail-level", choices=["error", "warning"], default="error", help="fail at such findings (default: error)"
    )


async def _doctor(invocation: Invocation) -> None:
    found = {alias: await _examine(layer) for alias, layer in invocation.layers().items()}
    if invocation.is_json:
        invocation.print_json(
            {
                alias: [{"level": each.level, "text": each.text, "cure": each.cure} for each in findings]
                for alias, findings in found.items()
            }
        )
    else:
        for alias, findings in found.items():
            invocation.print(f"{alias}:")
            for finding in findings:
                invocation.print(f"  {finding.level:<8} {printable(finding.text)}.")
                if finding.cure:
                    invocation.print(f"           {printable(finding.cure.rstrip('.'))}.")
    levels = [finding.level for findings in found.values() for finding in findings]
    failing = {"error", invocation.options["fail_level"]}
    count = sum(level in failing for level in levels)
    if count:
        raise CommandError(f"{count} of {len(levels)} findings are to be cured.")


async def _examine(layer: AnyioChannelLayer) -> list[Finding]:
    findings = await layer.diagnose()
    try:
        took = await layer.ping()
        findings.append(Finding("ok", f"A round trip through the broker takes {took * 1000:.1f} ms"))
        findings += await _compare_nodes(layer)
    except ChannelLayerError as error:
        findings.append(Finding("error", str(error)))
    return findings


async def _compare_nodes(layer: AnyioChannelLayer) -> list[Finding]:
    reports = await layer.node_reports()
    findings = [Finding("unknown", note) for note in notes_of(reports, layer)]
    nodes = others(reports)
    own = package_version()
    for version in sorted({report.version for report, _ in nodes} - {own}):
        text = f"Nodes run the version {version} of this package, and this command {own}"
        findings.append(Finding("warning", text, "Deploy one version everywhere"))
    clocks = [
        clock_finding(f"node {report.node} ({report.process})", report.clock, reports.asked_at, reports.asked_at + took)
        for report, took in nodes
    ]
    findings += [each for each in clocks if each.level != "ok"]
    if nodes and len(findings) == len(notes_of(reports, layer)):
        findings.append(Finding("ok", f"All other nodes ({len(nodes)}) have the version and the clock of this command"))
    return findings
