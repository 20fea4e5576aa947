"""Runs scenarios in interleaved rounds, takes medians, and judges targets."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from statistics import median
from time import monotonic

from .children import ChildFailed, in_child
from .contenders import OURS, Contender
from .deliveries import Tally
from .measuring import Figures

Measure = Callable[[Contender], Figures]

_SECONDS = 300.0
"""The longest that one measurement may take."""


@dataclass(frozen=True)
class Scenario:
    """One thing to measure, and with which sizes for whom: ``measures`` maps the contender's name.

    Who is named in ``once`` is so slow here that a normal run measures it in the first round only.
    """

    name: str
    measures: Mapping[str, Measure]
    once: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Figure:
    """Where a median stands in the results."""

    scenario: str
    contender: str
    unit: str

    def __str__(self) -> str:
        return f"{self.contender}, {self.scenario}, {self.unit}"


@dataclass(frozen=True)
class Target:
    """A ratio of two medians that must be reached: one of the two limits is given."""

    figure: Figure
    against: Figure
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether this ratio is good enough."""
        return (self.at_least is None or ratio >= self.at_least) and (self.at_most is None or ratio <= self.at_most)

    @property
    def wanted(self) -> str:
        """The limit in words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def against(
    peer: str, scenario: str, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Target:
    """Our figure against a peer's in the same scenario."""
    return Target(Figure(scenario, OURS, unit), Figure(scenario, peer, unit), at_least=at_least, at_most=at_most)


def sync_against(peer: str, *, at_least: float) -> Target:
    """Our `group_send_sync` against what a peer's users have to call."""
    return Target(
        Figure("group_send_sync", OURS, "calls/s"),
        Figure("async_to_sync(group_send)", peer, "calls/s"),
        at_least=at_least,
    )


def _nothing() -> None:
    """What needs no broker leaves nothing on one."""


@contextmanager
def _no_broker() -> Iterator[Callable[[], object]]:
    yield _nothing


@dataclass(frozen=True)
class BenchmarkSet:
    """What one command measures; the first contender is ours.

    ``broker`` starts what the contenders speak to and stops it in the end; it gives a function that empties it, which
    is called before each measurement.
    """

    name: str
    contenders: tuple[Contender, ...]
    scenarios: tuple[Scenario, ...]
    targets: tuple[Target, ...]
    broker: Callable[[], AbstractContextManager[Callable[[], object]]] = _no_broker


@dataclass
class Cell:
    """All rounds of one contender in one scenario."""

    rounds: list[Figures] = field(default_factory=list)
    error: str | None = None

    @property
    def units(self) -> list[str]:
        return list(self.rounds[0].values) if self.rounds else []

    def median(self, unit: str) -> float:
        """The median of the rounds."""
        return median(figures.values[unit] for figures in self.rounds)

    @property
    def tally(self) -> Tally:
        """The deliveries of all rounds."""
        return sum((figures.tally for figures in self.rounds), Tally())

    @property
    def verified(self) -> bool:
        """Whether every round ended, and every delivery was right."""
        return self.error is None and bool(self.rounds) and self.tally.expected > 0 and self.tally.verified


@dataclass
class Results:
    """What a run found."""

    of: BenchmarkSet
    rounds: int
    began: datetime
    seconds: float = 0.0
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    """By scenario and contender."""

    @property
    def targets(self) -> list[Target]:
        """Those of which both sides were measured."""
        return [
            target
            for target in self.of.targets
            if all(figure.scenario in self.cells for figure in (target.figure, target.against))
        ]

    def ratio(self, target: Target) -> float | None:
        """Of the two medians; None where one of them failed."""
        cells = [self.cells[figure.scenario][figure.contender] for figure in (target.figure, target.against)]
        if not all(cell.rounds for cell in cells):
            return None
        return cells[0].median(target.figure.unit) / cells[1].median(target.against.unit)

    @property
    def unverified(self) -> list[str]:
        """Which measurements of ours failed or had wrong deliveries."""
        ours = self.of.contenders[0].name
        return [name for name, cells in self.cells.items() if ours in cells and not cells[ours].verified]

    @property
    def missed(self) -> list[Target]:
        """The targets that were not reached."""
        return [target for target in self.targets if not self._is_met(target)]

    def _is_met(self, target: Target) -> bool:
        ratio = self.ratio(target)
        return ratio is not None and target.is_met(ratio)


def run(benchmarks: BenchmarkSet, *, rounds: int, thorough: bool, only: str = "") -> Results:
    """Measure every scenario whose name contains ``only``.

    In each round every contender has its turn, in an order that rotates, so that what else the machine does meets all
    alike. ``thorough`` measures in every round also what is slow.
    """
    results = Results(benchmarks, rounds, datetime.now(UTC))
    began = monotonic()
    # The children copy what they touch; the collector would touch everything.
    gc.collect()
    gc.freeze()
    with benchmarks.broker() as empty:
        for scenario in benchmarks.scenarios:
            if only not in scenario.name:
                continue
            contenders = [contender for contender in benchmarks.contenders if contender.name in scenario.measures]
            cells = results.cells[scenario.name] = {contender.name: Cell() for contender in contenders}
            _progress(scenario.name)
            for number in range(rounds):
                turn = number % len(contenders)
                for contender in contenders[turn:] + contenders[:turn]:
                    if number == 0 or thorough or contender.name not in scenario.once:
                        empty()
                        _measure(scenario, contender, cells[contender.name])
    results.seconds = monotonic() - began
    return results


def _measure(scenario: Scenario, contender: Contender, cell: Cell) -> None:
    if cell.error is None:
        try:
            cell.rounds.append(in_child(partial(scenario.measures[contender.name], contender), _SECONDS))
        except ChildFailed as error:
            cell.error = str(error)
            _progress(f"{scenario.name}: {contender.name} failed: {error}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
