"""The command line."""

from __future__ import annotations

import argparse
import json
import logging
from importlib import import_module
from pathlib import Path

from . import report, runner
from .runner import BenchmarkSet

ROUNDS = 7
"""Many short ones: what else the machine does changes within seconds."""
SETS = {
    "memory": "benchmarks.brokers.memory.benchmark_set",
    "mqtt": "benchmarks.brokers.mqtt.benchmark_set",
    "postgres": "benchmarks.brokers.postgres.benchmark_set",
    "redis": "benchmarks.brokers.redis.benchmark_set",
    "streams": "benchmarks.brokers.redis.streams",
    "websocket": "benchmarks.websocket.benchmark_set",
}
"""The modules with a function ``benchmarks(quick)``."""


def main(arguments: list[str]) -> int:
    """Run a set and print its tables. Returns 1 if a delivery of ours was wrong or a target was missed."""
    options = _parser().parse_args(arguments)
    # A full mailbox is part of what is measured; its warnings would only hide the tables.
    logging.getLogger("django_anyio_channels").setLevel(logging.ERROR)
    benchmarks: BenchmarkSet = import_module(SETS[options.set]).benchmarks(options.quick)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    results = runner.run(benchmarks, rounds=rounds, thorough=options.thorough, only=options.only)
    print(report.as_tables(results, judged=not options.quick))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results), indent=2) + "\n")
    for scenario in results.unverified:
        print(f"Not verified: {scenario}")
    return 1 if results.unverified or results.missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 benchmarks", description="Compare this package's layer with its peers, deliveries verified."
    )
    parser.add_argument("set", choices=SETS, help="the broker")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything works")
    parser.add_argument("--rounds", type=int, help=f"how many rounds to take the median of (default: {ROUNDS})")
    parser.add_argument("--thorough", action="store_true", help="measure in every round also what takes minutes")
    parser.add_argument("--only", default="", metavar="TEXT", help="only scenarios with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found, as JSON")
    return parser
