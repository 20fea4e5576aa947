"""The benchmarks run, what they count is verified, and they judge as they say. Nothing here is about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.brokers.memory.benchmark_set import benchmarks as memory
from benchmarks.brokers.memory.peers import BareQueues, bare_queues
from benchmarks.harness import deliveries, report, runner
from benchmarks.harness.children import ChildFailed
from benchmarks.harness.command import SETS
from benchmarks.harness.contenders import Contender, Message
from benchmarks.harness.deliveries import Tally
from benchmarks.harness.measuring import Figures
from benchmarks.harness.runner import BenchmarkSet, Figure, Scenario, Target
from benchmarks.scenarios.competing_workers import competing_workers
from benchmarks.scenarios.fan_out import fan_out
from benchmarks.scenarios.latency import latency
from benchmarks.scenarios.membership import membership
from benchmarks.scenarios.round_trip import round_trip
from tests.support.paths import ROOT
from tests.support.programs import in_a_hurry


def run_quickly(
    folder: Path, *arguments: str, python: Sequence[str] = ()
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What the command printed, and what it wrote as JSON."""
    found = folder / "found.json"
    done = subprocess.run(
        [sys.executable, *python, "-m", "benchmarks", *arguments, "--quick", "--json", str(found)],
        cwd=ROOT,
        env=in_a_hurry(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads(found.read_text())


def test_a_quick_run_verifies_every_scenario(tmp_path: Path) -> None:
    done, run = run_quickly(tmp_path, "memory", python=["-W", "error"])
    assert done.stderr.splitlines() == [scenario.name for scenario in memory(quick=True).scenarios]
    assert run["set"] == "memory"
    assert run["rounds"] == 1
    assert run["machine"]["cpus"] >= 1
    assert run["machine"]["packages"]["channels"]
    assert list(run["scenarios"]) == [scenario.name for scenario in memory(quick=True).scenarios]
    for scenario in memory(quick=True).scenarios:
        assert set(run["scenarios"][scenario.name]) == set(scenario.measures)
        for contender, cell in run["scenarios"][scenario.name].items():
            assert cell["verified"], (scenario.name, contender, cell)
            assert cell["right"] == cell["expected"] > 0
            assert cell["figures"]
            assert all(len(figure["rounds"]) == 1 for figure in cell["figures"].values())
            assert scenario.name in done.stdout
    assert "met" not in done.stdout
    assert "missed" not in done.stdout


def make(name: str, *, quick: bool) -> BenchmarkSet:
    benchmarks: BenchmarkSet = import_module(SETS[name]).benchmarks(quick)
    return benchmarks


@pytest.mark.parametrize(
    ("broker", "only", "verified"),
    [
        (
            "postgres",
            "16 senders",
            {
                "publish to 1 group, 16 senders": {"ours", "ours with a history"},
                "publish to 16 groups, 16 senders": {"ours", "ours with a history"},
                "send, 16 senders": {"ours", "channels_postgres", "bare asyncpg"},
                "jobs to two workers, 16 senders": {"ours", "channels_postgres"},
            },
        ),
        ("mqtt", "to 1, 10 senders", {f"group_send to 1, 10 senders, QoS {qos}": {"ours"} for qos in (0, 1)}),
        # channels_redis gives some jobs to both workers.
        ("streams", "catching up", {f"catching up {missed}": {"ours"} for missed in (1, 100)}),
        ("redis", "1 sender", {"send, 1 sender": {"ours"}, "jobs to two workers, 1 sender": {"ours"}}),
    ],
)
def test_a_quick_run_over_a_broker_verifies_what_is_asked_for(
    tmp_path: Path, broker: str, only: str, verified: dict[str, set[str]]
) -> None:
    _, run = run_quickly(tmp_path, broker, "--only", only)
    assert run["scenarios"].keys() == verified.keys()
    for scenario, cells in run["scenarios"].items():
        assert all(cell["error"] is None for cell in cells.values())
        assert all(cells[contender]["verified"] for contender in verified[scenario])


@pytest.mark.parametrize("name", SETS)
def test_every_target_of_a_set_names_figures_that_it_measures(name: str) -> None:
    benchmarks = make(name, quick=False)
    assert benchmarks.name == name
    assert benchmarks.targets
    measured = {(scenario.name, name) for scenario in benchmarks.scenarios for name in scenario.measures}
    assert {name for _, name in measured} == {contender.name for contender in benchmarks.contenders}
    for target in benchmarks.targets:
        assert (target.figure.scenario, target.figure.contender) in measured
        assert (target.against.scenario, target.against.contender) in measured
        assert (target.at_least is None) is not (target.at_most is None)


class Tampering(BareQueues):
    """Treats what is sent as its function says: any number of messages for one."""

    def __init__(self, tamper: Callable[[Message], list[Message]]) -> None:
        super().__init__()
        self._tamper = tamper

    async def send(self, channel: str, message: Message) -> None:
        for each in self._tamper(message):
            await super().send(channel, each)

    async def group_send(self, group: str, message: Message) -> None:
        for each in self._tamper(message):
            await super().group_send(group, each)


def tampering(tamper: Callable[[Message], list[Message]]) -> Contender:
    return Contender("tampering", lambda: Tampering(tamper))


def is_third(message: Message) -> bool:
    return message.get("number") == 3


def twice(message: Message) -> list[Message]:
    return [message] * (2 if is_third(message) else 1)


def altered(message: Message) -> list[Message]:
    return [message, {**message, "text": "other"}] if is_third(message) else [message]


def lost(message: Message) -> list[Message]:
    return [] if is_third(message) else [message]


def last_one_twice(message: Message) -> list[Message]:
    return [message] * (2 if message.get("number") == 9 else 1)


@pytest.mark.parametrize("tamper", [twice, altered, last_one_twice])
@pytest.mark.parametrize("senders", [1, 3])
def test_a_fan_out_sees_what_should_not_have_come(tamper: Callable[[Message], list[Message]], senders: int) -> None:
    right = fan_out(bare_queues(), members=4, messages=10 * senders, senders=senders)
    assert right.tally == Tally(expected=40 * senders, right=40 * senders)
    assert right.tally.verified
    wrong = fan_out(tampering(tamper), members=4, messages=10 * senders, senders=senders)
    assert wrong.tally == Tally(expected=40 * senders, right=40 * senders, wrong=4 * senders)
    assert not wrong.tally.verified


def test_a_fan_out_sees_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "PATIENCE", 0.05)
    with pytest.raises(deliveries.Stalled, match=r"nothing arrived for 0\.05 s"):
        fan_out(tampering(lost), members=2, messages=10)


def test_two_workers_see_what_came_twice() -> None:
    assert competing_workers(bare_queues(), jobs=10).tally == Tally(expected=10, right=10)
    assert competing_workers(tampering(last_one_twice), jobs=10).tally == Tally(expected=10, right=10, wrong=1)


@pytest.mark.parametrize("measure", [partial(latency, messages=20), partial(round_trip, trips=20)])
def test_trips_see_what_is_not_what_was_sent(measure: runner.Measure) -> None:
    assert measure(bare_queues()).tally == Tally(expected=20, right=20)

    def other_text(message: Message) -> list[Message]:
        return [{**message, "text": "other"} if is_third(message) else message]

    assert measure(tampering(other_text)).tally == Tally(expected=20, right=19, wrong=1)


class NeverLeaving(BareQueues):
    async def group_discard(self, group: str, channel: str) -> None:
        """As if nothing had been asked."""


@pytest.mark.parametrize("shared", [True, False])
def test_members_that_do_not_leave_are_seen(shared: bool) -> None:
    assert membership(bare_queues(), cycles=3, shared=shared).tally.verified
    assert not membership(Contender("never leaving", NeverLeaving), cycles=3, shared=shared).tally.verified


# ---- rounds, medians, targets ---------------------------------------------------------------------------------------


A, B = Contender("a", BareQueues), Contender("b", BareQueues)


@pytest.fixture(autouse=True)
def _without_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(measure: Callable[[], Figures], seconds: float) -> Figures:
        return measure()

    monkeypatch.setattr(runner, "in_child", call)
    monkeypatch.setattr("gc.freeze", lambda: None)


def playing(turns: list[str], **figures: list[float]) -> dict[str, runner.Measure]:
    """Measures that play these figures one by one, and note their turns."""
    rounds = {name: iter(values) for name, values in figures.items()}

    def measure(contender: Contender) -> Figures:
        turns.append(contender.name)
        return Figures({"x/s": next(rounds[contender.name])}, Tally(1, 1))

    return dict.fromkeys(figures, measure)


def target(**limit: float) -> Target:
    return Target(Figure("race", "a", "x/s"), Figure("race", "b", "x/s"), **limit)


def test_contenders_take_turns_and_medians_are_compared() -> None:
    turns: list[str] = []
    race = Scenario("race", playing(turns, a=[30, 900, 20], b=[10, 11, 1]))
    benchmarks = BenchmarkSet("test", (A, B), (race,), (target(at_least=3), target(at_least=3.1), target(at_most=2)))
    results = runner.run(benchmarks, rounds=3, thorough=False)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert results.ratio(target(at_least=3)) == 3.0
    assert results.missed == [target(at_least=3.1), target(at_most=2)]
    assert results.unverified == []
    tables = report.as_tables(results, judged=True)
    assert "race  x/s   30  10" in tables
    assert "at least 3.1  3      missed" in tables
    found = report.as_json(results)
    assert found["scenarios"]["race"]["a"]["figures"] == {"x/s": {"median": 30, "rounds": [30, 900, 20]}}
    assert [judged["met"] for judged in found["targets"]] == [True, False, False]


@pytest.mark.parametrize(("thorough", "rounds"), [(False, 1), (True, 3)])
def test_what_is_slow_is_measured_once_unless_asked(thorough: bool, rounds: int) -> None:
    turns: list[str] = []
    race = Scenario("race", playing(turns, a=[1, 2, 3], b=[1, 2, 3]), once=frozenset({"b"}))
    results = runner.run(BenchmarkSet("test", (A, B), (race,), ()), rounds=3, thorough=thorough)
    assert turns.count("b") == len(results.cells["race"]["b"].rounds) == rounds
    assert ("(once)" in report.as_tables(results, judged=True)) is not thorough


def test_only_some_scenarios_are_measured_and_judged() -> None:
    turns: list[str] = []
    race = Scenario("race", playing(turns, a=[1], b=[1]))
    other = Scenario("other", playing(turns, a=[1], b=[1]))
    benchmarks = BenchmarkSet("test", (A, B), (race, other), (target(at_least=3),))
    results = runner.run(benchmarks, rounds=1, thorough=False, only="oth")
    assert list(results.cells) == ["other"]
    assert results.missed == []


def test_who_fails_or_delivers_wrongly_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(contender: Contender) -> Figures:
        raise ChildFailed("Traceback: it broke")

    def loses(contender: Contender) -> Figures:
        return Figures({"x/s": 1.0}, Tally(expected=5, right=3, wrong=1))

    def counts_nothing(contender: Contender) -> Figures:
        return Figures({"x/s": 1.0})

    measures: dict[str, Any] = {"race": fails, "lossy": loses, "unchecked": counts_nothing}
    stages = tuple(Scenario(name, {"a": measure, "b": measure}) for name, measure in measures.items())
    results = runner.run(BenchmarkSet("test", (A, B), stages, (target(at_least=1),)), rounds=2, thorough=False)
    assert results.unverified == ["race", "lossy", "unchecked"]
    assert results.missed == [target(at_least=1)]
    tables = report.as_tables(results, judged=True)
    assert "failed" in tables
    assert "1 (4 lost, 2 wrong)" in tables
    assert "none" in tables
    assert "race: a failed: Traceback: it broke" in capsys.readouterr().err
    assert report.as_json(results)["scenarios"]["race"]["a"]["error"] == "Traceback: it broke"


@pytest.mark.parametrize("name", SETS)
def test_scenarios_are_explained(name: str) -> None:
    """Their docstrings are the documentation of what the tables say."""
    for scenario in make(name, quick=True).scenarios:
        for measure in scenario.measures.values():
            assert isinstance(measure, partial)
            module = measure.func.__module__
            of_its_own = module.rpartition(".")[2] == measure.func.__name__
            assert of_its_own or module == SETS[name]
            assert measure.func.__doc__
