"""One PostgreSQL server on this machine: this package's layer beside channels_postgres and the bare driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running

from ...harness.contenders import OURS, Connections, Contender, ours
from ...harness.measuring import Figures
from ...harness.runner import BenchmarkSet, Figure, Measure, Scenario, Target, against, sync_against
from ...scenarios.catching_up import catching_up
from ...scenarios.competing_workers import competing_workers
from ...scenarios.fan_out import fan_out
from ...scenarios.from_thread import from_thread
from ...scenarios.latency import latency
from ...scenarios.membership import membership
from ...scenarios.publishing import publishing
from ...scenarios.restart import restart
from ...scenarios.round_trip import round_trip
from .peers import bare_asyncpg, channels_postgres, migrate

THEIRS, BARE = "channels_postgres", "bare asyncpg"
HISTORY = "ours with a history"
MISSED = 10_000


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed.

    channels_postgres writes a row for each member of a group, so it gets fewer messages. It gives normal channels to
    the reader who came first, so one of two workers is idle.
    """
    few = 50 if quick else 1
    server = _Server()

    def each(measure: Measure, *names: str) -> dict[str, Measure]:
        return dict.fromkeys(names or (OURS, THEIRS, BARE), measure)

    def sized(ours: int, theirs: int, bare: int, **how: Any) -> dict[str, Measure]:
        numbers = {OURS: ours, THEIRS: theirs, BARE: bare}
        return {name: partial(fan_out, messages=-(-number // few), **how) for name, number in numbers.items()}

    def to_other_processes(*, senders: int = 1) -> dict[str, Measure]:
        if quick:
            return sized(1, 1, 1, members=10, senders=senders, processes=2)
        return sized(1000 * senders, 50, 1000 * senders, members=100, senders=senders, processes=4)

    def send(messages: int, *, senders: int = 1) -> dict[str, Measure]:
        return sized(messages, messages // 5, messages, members=1, senders=senders, processes=1, direct=True)

    def jobs(ours: int, theirs: int, *, senders: int = 1) -> dict[str, Measure]:
        return {
            name: partial(
                competing_workers, jobs=-(-number // few), senders=senders, processes=2, one_idles=name == THEIRS
            )
            for name, number in {OURS: ours, THEIRS: theirs}.items()
        }

    def publish(groups: int) -> dict[str, Measure]:
        measure = partial(publishing, messages=16_000 // few, senders=16, groups=groups)
        return {name: partial(measure, kept=name == HISTORY) for name in (OURS, HISTORY)}

    scenarios = (
        Scenario("latency, 1 member", each(partial(latency, messages=1500 // few), OURS, HISTORY, THEIRS, BARE)),
        Scenario("group_send to 1, 10 senders", sized(12_000, 2000, 20_000, members=1, senders=10)),
        Scenario("publish to 1 group, 16 senders", publish(1)),
        Scenario("publish to 16 groups, 16 senders", publish(16)),
        Scenario(f"catching up {MISSED}", {HISTORY: partial(catching_up, missed=MISSED // few)}),
        Scenario("group_send to 100", sized(1500, 100, 2000, members=100)),
        Scenario("group_send to 100, 10 senders", sized(3000, 100, 4000, members=100, senders=10)),
        Scenario("group_send to 1000", sized(250, 15, 300, members=1000)),
        Scenario("group_send to 1000, 10 senders", sized(500, 20, 600, members=1000, senders=10)),
        Scenario("group_send to 4 processes of 100", to_other_processes()),
        Scenario("group_send to 4 processes of 100, 10 senders", to_other_processes(senders=10)),
        Scenario("send there and back, two processes", each(partial(round_trip, trips=1000 // few, processes=2))),
        Scenario("send, 1 sender", send(5000)),
        Scenario("send, 16 senders", send(15_000, senders=16)),
        Scenario("jobs to two workers, 1 sender", jobs(3000, 1500)),
        Scenario("jobs to two workers, 16 senders", jobs(8000, 2000, senders=16)),
        Scenario("join and leave, shared group", each(partial(membership, cycles=1500 // few, shared=True))),
        Scenario("join and leave, own group", each(partial(membership, cycles=1000 // few, shared=False))),
        Scenario("async_to_sync(group_send)", each(partial(from_thread, calls=500 // few), OURS, THEIRS)),
        Scenario("group_send_sync", {OURS: partial(from_thread, calls=5000 // few, sync=True)}),
        Scenario(
            "1 MB there and back", each(partial(round_trip, trips=max(2, 50 // few), size=1_000_000), OURS, THEIRS)
        ),
        Scenario(
            "kill -9 and restart",
            {
                OURS: partial(_restart, make=_ours, messages=1000 // few),
                THEIRS: partial(_restart, make=_theirs, messages=1000 // few),
            },
            once=frozenset({THEIRS}),
        ),
    )
    history = replace(ours(url=server.url, options={"history_length": 2 * MISSED}), name=HISTORY)
    contenders = (_ours(server), history, _theirs(server), bare_asyncpg(BARE, server.url, server.connections))
    return BenchmarkSet("postgres", contenders, scenarios, () if quick else _TARGETS, server.run)


class _Server:
    """PostgreSQL's newest; where it will be is known before it runs."""

    def __init__(self) -> None:
        self._broker = brokers.plain("log_connections=on")
        self.url = self._broker.url
        self.restart = self._broker.server.restart
        self._asked = 0

    @property
    def database(self) -> dict[str, Any]:
        """As in Django's ``DATABASES``."""
        return {**self._broker.entry, "TIME_ZONE": None}

    @contextmanager
    def run(self) -> Iterator[Callable[[], object]]:
        """Start it, and stop it in the end. Gives a function that empties all tables."""
        with running(self._broker.server):
            migrate(self.database)
            yield self._empty

    def connections(self) -> Connections:
        """What the server says, without the connection that asks."""
        ever = (self._broker.server.folder / "output").read_bytes().count(b"connection authorized")
        ((now,),) = self._broker.ask("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
        self._asked += 1
        return Connections(now=now, ever=ever - self._asked)

    def _empty(self) -> None:
        for ((table),) in self._broker.ask("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ 'channels'"):
            self._broker.ask(f"TRUNCATE {table}")


def _ours(server: _Server) -> Contender:
    return ours(url=server.url, connections=server.connections)


def _theirs(server: _Server) -> Contender:
    return channels_postgres(THEIRS, server.database, server.connections)


def _restart(contender: Contender, *, make: Callable[[_Server], Contender], messages: int) -> Figures:
    """`restart` with a server of its own."""
    server = _Server()
    with server.run():
        return restart(make(server), messages=messages, kill_and_start=server.restart)


_TARGETS = (
    Target(Figure("latency, 1 member", HISTORY, "p50 us"), Figure("latency, 1 member", OURS, "p50 us"), at_most=1.6),
    against(THEIRS, "latency, 1 member", "p50 us", at_most=0.35),
    against(THEIRS, "group_send to 1, 10 senders", "deliveries/s", at_least=12),
    against(THEIRS, "group_send to 100", "deliveries/s", at_least=15),
    against(THEIRS, "group_send to 100, 10 senders", "deliveries/s", at_least=15),
    against(THEIRS, "group_send to 1000", "deliveries/s", at_least=12),
    against(THEIRS, "group_send to 1000, 10 senders", "deliveries/s", at_least=12),
    against(THEIRS, "group_send to 4 processes of 100", "deliveries/s", at_least=20),
    against(THEIRS, "group_send to 4 processes of 100, 10 senders", "deliveries/s", at_least=20),
    against(THEIRS, "send there and back, two processes", "p50 us", at_most=0.6),
    against(THEIRS, "send, 1 sender", "deliveries/s", at_least=2),
    against(THEIRS, "send, 16 senders", "deliveries/s", at_least=8),
    against(THEIRS, "jobs to two workers, 1 sender", "jobs/s", at_least=1.5),
    against(THEIRS, "jobs to two workers, 16 senders", "jobs/s", at_least=4),
    against(THEIRS, "join and leave, shared group", "cycles/s", at_least=30),
    against(THEIRS, "join and leave, own group", "cycles/s", at_least=1.5),
    against(THEIRS, "async_to_sync(group_send)", "calls/s", at_least=2),
    sync_against(THEIRS, at_least=8),
    against(THEIRS, "1 MB there and back", "p50 us", at_most=1),
)
