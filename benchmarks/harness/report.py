"""Results as tables for people, and as JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .runner import Cell, Results

_PACKAGES = (
    "django-anyio-channels",
    "channels",
    "Django",
    "anyio",
    "msgspec",
    "uvloop",
    "channels-redis",
    "redis",
    "hiredis",
    "channels-nats",
    "channels-postgres",
    "asyncpg",
    "paho-mqtt",
)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": dict(_installed()),
    }


def _installed() -> Iterable[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def as_json(results: Results) -> dict[str, Any]:
    """Everything that was found, each round of it."""
    return {
        "set": results.of.name,
        "began": results.began.isoformat(),
        "seconds": round(results.seconds, 1),
        "rounds": results.rounds,
        "machine": machine(),
        "scenarios": {
            scenario: {contender: _cell_as_json(cell) for contender, cell in cells.items()}
            for scenario, cells in results.cells.items()
        },
        "targets": [
            {
                "figure": str(target.figure),
                "against": str(target.against),
                "wanted": target.wanted,
                "ratio": results.ratio(target),
                "met": target not in results.missed,
            }
            for target in results.targets
        ],
    }


def _cell_as_json(cell: Cell) -> dict[str, Any]:
    return {
        "error": cell.error,
        "verified": cell.verified,
        "expected": cell.tally.expected,
        "right": cell.tally.right,
        "wrong": cell.tally.wrong,
        "figures": {
            unit: {"median": cell.median(unit), "rounds": [figures.values[unit] for figures in cell.rounds]}
            for unit in cell.units
        },
    }


def as_tables(results: Results, *, judged: bool) -> str:
    """Two tables of reStructuredText: the medians, and, unless the run was too short for that, the targets."""
    names = [contender.name for contender in results.of.contenders]
    tables = [_table(["what", "unit", *names], _median_rows(results, names))]
    if judged:
        tables.append(_table(["target", "against", "wanted", "ratio", ""], _target_rows(results)))
    return "\n".join(tables)


def _median_rows(results: Results, names: list[str]) -> Iterable[list[str]]:
    for scenario, cells in results.cells.items():
        units = dict.fromkeys(unit for cell in cells.values() for unit in cell.units)
        for unit in units or [""]:
            yield [scenario, unit, *(_cell_text(cells.get(name), unit, results.rounds) for name in names)]


def _cell_text(cell: Cell | None, unit: str, rounds: int) -> str:
    if cell is None:
        return ""
    if cell.error is not None:
        return "failed"
    if unit not in cell.units:
        return ""
    text = _number(cell.median(unit))
    if len(cell.rounds) < rounds:
        text += " (once)"
    return text if cell.verified else f"{text} ({cell.tally.lost} lost, {cell.tally.wrong} wrong)"


def _target_rows(results: Results) -> Iterable[list[str]]:
    for target in results.targets:
        ratio = results.ratio(target)
        yield [
            str(target.figure),
            str(target.against),
            target.wanted,
            "none" if ratio is None else _number(ratio),
            "missed" if target in results.missed else "met",
        ]


def _number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(1, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rule, text[0], rule, *text[1:], rule]) + "\n"
