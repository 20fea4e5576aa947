"""``manage.py channels top``: what all processes do, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from ..layer import AnyioChannelLayer
from ..nodes.control import Reports
from .info import notes_of, others
from .running import Invocation, add_parser, positive_count, positive_seconds, seconds, table

_HEADINGS = (
    *("PROCESS", "NODE", "PUBLISHED/s", "RECEIVED/s", "LAG", "MAILBOXES", "UNREAD", "DROPPED/s", "DROPPED"),
    *("OUTAGES", "REPLY"),
)
_RATES = ("published", "received", "dropped")


class Screen(Protocol):
    """Where a page is shown."""

    def show(self, page: str) -> None: ...


def add_arguments(subcommands: Any) -> None:
    """Add the subcommand."""
    text = "Show what all processes publish, receive and drop, and how far readers lag behind, until interrupted."
    parser = add_parser(subcommands, "top", text, _top)
    parser.add_argument(
        "--interval", type=positive_seconds, default=2.0, metavar="SECONDS", help="between two pages (default: 2)"
    )
    parser.add_argument("--count", type=positive_count, metavar="N", help="end after so many pages")
    parser.add_argument("--plain", action="store_true", help="print lines, also on a terminal")


async def _top(invocation: Invocation) -> None:
    layer, interval, count = invocation.layer(), invocation.options["interval"], invocation.options["count"]
    before, shown = await _sample(layer, interval), 0
    with _screen(invocation) as screen:
        while count is None or shown < count:
            await asyncio.sleep(interval)
            sample = await _sample(layer, interval)
            rows, notes = _rows(before, sample), notes_of(sample[1], layer)
            if invocation.is_json:
                invocation.print_json({"nodes": rows, "notes": notes})
            else:
                screen.show("\n".join([_page(rows), *(f"{note}." for note in notes)]))
            before, shown = sample, shown + 1


async def _sample(layer: AnyioChannelLayer, interval: float) -> tuple[float, Reports]:
    reports = await layer.node_reports(timeout=max(1.0, interval))
    return monotonic(), reports


def _rows(before: tuple[float, Reports], after: tuple[float, Reports]) -> list[dict[str, Any]]:
    elapsed = after[0] - before[0]
    rows = []
    for report, reply_seconds in others(after[1]):
        row = {
            "process": report.process,
            "node": report.node,
            "lag_seconds": report.oldest,
            "reply_seconds": reply_seconds,
            **report.counters,
        }
        if report.node in before[1].by_node:
            former = before[1].by_node[report.node][0].counters
            for name in _RATES:
                difference = report.counters.get(name, 0) - former.get(name, 0)
                row[f"{name}_per_second"] = max(0, difference) / elapsed
        rows.append(row)
    return rows


def _page(rows: list[dict[str, Any]]) -> str:
    def rate(row: dict[str, Any], name: str) -> str:
        value = row.get(f"{name}_per_second")
        return "-" if value is None else f"{value:.1f}"

    cells = [
        (
            *(row["process"], row["node"], rate(row, "published"), rate(row, "received"), seconds(row["lag_seconds"])),
            *(row.get("channels", "-"), row.get("unread_channels", "-"), rate(row, "dropped"), row.get("dropped", "-")),
            *(row.get("outages", "-"), f"{row['reply_seconds'] * 1000:.0f} ms"),
        )
        for row in rows
    ]
    return table(_HEADINGS, cells) if cells else "No other node."


class _Lines:
    """Prints a page below the other."""

    def __init__(self, invocation: Invocation) -> None:
        self._print = invocation.print

    def show(self, page: str) -> None:
        self._print(f"{page}\n")


@contextmanager
def _screen(invocation: Invocation) -> Iterator[Screen]:
    """Return rich's live display on a terminal, or else lines."""
    if not invocation.stdout.isatty() or invocation.options["plain"] or invocation.is_json:
        yield _Lines(invocation)
        return
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        invocation.stderr.write("For a page that stays in place: pip install django-anyio-channels[cli]\n")
        yield _Lines(invocation)
        return

    class Page:
        def show(self, page: str) -> None:
            live.update(Text(page, no_wrap=True, overflow="crop"), refresh=True)

    with Live(console=Console(), auto_refresh=False) as live:
        yield Page()
