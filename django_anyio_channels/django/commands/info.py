"""``manage.py channels info``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...core.exceptions import NotSupported
from ...core.inspection import QueueState
from ..layer import AnyioChannelLayer
from ..nodes.control import Reports
from .running import Invocation, add_parser, positive_seconds, printable, seconds, table


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = "Show nodes, groups with their members, normal channels with what waits in them, and dead letters."
    parser = add_parser(subcommands, "info", text, _info)
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=3.0,
        metavar="SECONDS",
        help="for the replies of the nodes (default: 3)",
    )


async def _info(invocation: Invocation) -> None:
    found = {
        alias: await _describe(layer, invocation.options["timeout"]) for alias, layer in invocation.layers().items()
    }
    if invocation.is_json:
        invocation.print_json(found)
        return
    for alias, described in found.items():
        invocation.print(f"{alias}: {', '.join(described['brokers'])}")
        for section, lines in _sections(described).items():
            invocation.print(f"\n{section}\n{lines}")
        for note in described["notes"]:
            invocation.print(f"\n{note}.")
        invocation.print()


async def _describe(layer: AnyioChannelLayer, timeout: float) -> dict[str, Any]:
    reports = await layer.node_reports(details=True, timeout=timeout)
    notes = notes_of(reports, layer)
    nodes, members, nodes_of_group = [], Counter[str](), Counter[str]()
    more_groups = 0
    for report, reply_seconds in others(reports):
        members.update(report.groups)
        nodes_of_group.update(report.groups.keys())
        more_groups = max(more_groups, report.more_groups)
        if report.more_queues:
            notes.append(f"Node {report.node} holds more normal channels than are shown")
        nodes.append(
            {
                "node": report.node,
                "process": report.process,
                "version": report.version,
                "reply_seconds": reply_seconds,
                "oldest_seconds": report.oldest,
                **report.counters,
            }
        )
    if more_groups:
        notes.append(
            f"{more_groups} groups or more are not shown: a node reports those with the most members at it, and the "
            f"numbers of members are those that were reported"
        )
    channels: list[dict[str, Any]] = []
    dead_letters: dict[str, int] = {}
    try:
        states = await layer.queue_states(reports)
        channels = [_describe_channel(each, layer) for each in states]
        if any(each.readers is None for each in states):
            notes.append(f"{', '.join(layer.brokers)} does not say how many read a channel")
    except NotSupported as error:
        notes.append(str(error))
    try:
        dead_letters = await layer.dead_letters()
    except NotSupported as error:
        notes.append(str(error))
    return {
        "brokers": layer.brokers,
        "nodes": nodes,
        "groups": {group: {"members": count, "nodes": nodes_of_group[group]} for group, count in members.most_common()},
        "channels": channels,
        "dead_letters": dead_letters,
        "notes": notes,
    }


def _describe_channel(state: QueueState, layer: AnyioChannelLayer) -> dict[str, Any]:
    age = None if state.expires_in is None else max(0.0, layer.expiry - state.expires_in)
    return {
        "channel": state.name,
        "waiting": state.length,
        "oldest_seconds": age,
        "pending": state.pending,
        "readers": state.readers,
        "capacity": layer.get_capacity(state.name),
    }


def others(reports: Reports) -> list[tuple[Any, float]]:
    """Return the reports of all nodes but the one that asked."""
    return [each for node, each in sorted(reports.by_node.items()) if node != reports.asked_by]


def notes_of(reports: Reports, layer: AnyioChannelLayer) -> list[str]:
    """Return a sentence for each thing that the reports cannot say."""
    brokers = ", ".join(layer.brokers)
    notes = [f"A node did not report: {printable(error)}" for error in reports.errors]
    if brokers == "memory://":
        notes.append("memory:// carries messages within one process, so this command sees nothing of the others")
    elif reports.nodes is None:
        notes.append(f"{brokers} does not say how many nodes there are; those that replied in time are shown")
    elif reports.nodes > len(reports.by_node) + len(reports.errors):
        missing = reports.nodes - len(reports.by_node) - len(reports.errors)
        notes.append(
            f"{missing} of {reports.nodes - 1} nodes did not reply in time: something blocks their event loops"
        )
    return notes


def _sections(described: dict[str, Any]) -> dict[str, str]:
    nodes = [
        (
            *(each["node"], each["process"], each["version"], each.get("channels", "-"), each.get("topics", "-")),
            *(each.get("dropped", "-"), each.get("expired", "-"), each.get("outages", "-")),
            *(seconds(each["oldest_seconds"]), f"{each['reply_seconds'] * 1000:.0f} ms"),
        )
        for each in described["nodes"]
    ]
    groups = [(group, each["members"], each["nodes"]) for group, each in described["groups"].items()]
    channels = [
        (
            *(each["channel"], f"{each['waiting']} of {each['capacity']}", seconds(each["oldest_seconds"])),
            *(each["pending"], "-" if each["readers"] is None else each["readers"]),
        )
        for each in described["channels"]
    ]
    sections: dict[str, tuple[Sequence[Sequence[object]], Sequence[str]]] = {
        "Nodes": (
            nodes,
            ("NODE", "PROCESS", "VERSION", "CHANNELS", "TOPICS", "DROPPED", "EXPIRED", "OUTAGES", "OLDEST", "REPLY"),
        ),
        "Groups": (groups, ("GROUP", "MEMBERS", "NODES")),
        "Normal channels": (channels, ("CHANNEL", "WAITING", "OLDEST", "PENDING", "READERS")),
        "Dead letters": (list(described["dead_letters"].items()), ("CHANNEL", "DEAD LETTERS")),
    }
    return {name: table(headings, rows) if rows else "None." for name, (rows, headings) in sections.items()}
