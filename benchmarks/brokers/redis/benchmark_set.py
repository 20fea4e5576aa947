"""One Redis server on this machine: this package's layer beside both layers of channels_redis and the bare driver.

Beside them, where one member is all there is, the quickest layer on another broker: channels_nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import redis

from tests.support.brokers import redis as brokers
from tests.support.brokers.nats import nats
from tests.support.brokers.server import Server
from tests.support.brokers.server import running as run_servers

from ...harness.contenders import OURS, Connections, Contender, ours
from ...harness.measuring import Figures
from ...harness.runner import BenchmarkSet, Figure, Measure, Scenario, Target, against, sync_against
from ...scenarios.being_there import being_there
from ...scenarios.competing_workers import competing_workers
from ...scenarios.fan_out import fan_out
from ...scenarios.from_thread import from_thread
from ...scenarios.idle_members import idle_members
from ...scenarios.joining import joining
from ...scenarios.latency import latency
from ...scenarios.members_of_a_group import members_of_a_group
from ...scenarios.membership import membership
from ...scenarios.restart import restart
from ...scenarios.round_trip import round_trip
from .nats_peer import channels_nats
from .peers import bare_redis_py, channels_redis_core, channels_redis_pubsub

CORE, PUBSUB, BARE, NATS = "core", "pubsub", "bare redis-py", "channels_nats"


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed.

    The core layer writes one entry for each member of a group, so it gets fewer messages.
    """
    few = 50 if quick else 1
    server = brokers.plain("redis")
    nats_server = None if quick else nats()
    to_one = {} if quick else {NATS: partial(fan_out, members=1, messages=20_000, senders=10)}

    def each(measure: Measure, *names: str) -> dict[str, Measure]:
        return dict.fromkeys(names or (OURS, CORE, PUBSUB, BARE), measure)

    def group_send(members: int, ours: int, theirs: int, core: int, *, senders: int = 1) -> dict[str, Measure]:
        messages = {OURS: ours, CORE: core, PUBSUB: theirs, BARE: theirs}
        return {
            name: partial(fan_out, members=members, messages=-(-number // few), senders=senders)
            for name, number in messages.items()
        }

    def to_other_processes(members: int, ours: int, theirs: int, core: int, *, senders: int = 1) -> dict[str, Measure]:
        processes = 2 if quick else 4
        return {
            name: partial(
                fan_out,
                members=members // processes,
                messages=-(-number // few),
                senders=senders,
                processes=processes,
            )
            for name, number in {OURS: ours, CORE: core, PUBSUB: theirs, BARE: theirs}.items()
        }

    def send(messages: int, *, senders: int = 1) -> dict[str, Measure]:
        return each(partial(fan_out, members=1, messages=messages // few, senders=senders, processes=1, direct=True))

    def jobs(number: int, *, senders: int = 1) -> dict[str, Measure]:
        few = 5 if quick else 1
        return {
            name: partial(competing_workers, jobs=count // few, senders=senders, processes=2)
            for name, count in {OURS: number, CORE: number // 5, BARE: number // 2}.items()
        }

    scenarios = (
        Scenario("latency, 1 member", each(partial(latency, messages=2500 // few))),
        Scenario("group_send to 1", group_send(1, 6000, 3000, 1500)),
        Scenario("group_send to 1, 10 senders", group_send(1, 20_000, 6000, 3000, senders=10) | to_one),
        Scenario("group_send to 100", group_send(100, 2000, 1000, 100)),
        Scenario("group_send to 100, 10 senders", group_send(100, 3000, 1000, 100, senders=10)),
        Scenario("group_send to 1000", group_send(1000, 400, 150, 12)),
        Scenario("group_send to 1000, 10 senders", group_send(1000, 600, 150, 20, senders=10)),
        Scenario("group_send to 4 processes of 100", to_other_processes(400, 2000, 1000, 40)),
        Scenario("group_send to 4 processes of 100, 10 senders", to_other_processes(400, 4000, 1000, 40, senders=10)),
        Scenario("send there and back, two processes", each(partial(round_trip, trips=1500 // few, processes=2))),
        Scenario("send, 1 sender", send(5000)),
        Scenario("send, 16 senders", send(15_000, senders=16)),
        Scenario("jobs to two workers, 1 sender", jobs(5000)),
        Scenario("jobs to two workers, 16 senders", jobs(15_000, senders=16)),
        Scenario("join and leave, shared group", each(partial(membership, cycles=2500 // few, shared=True))),
        Scenario("join and leave, own group", each(partial(membership, cycles=2500 // few, shared=False))),
        Scenario("group_add", {OURS: partial(joining, members=10_000 // few, presence=False)}),
        Scenario("group_add of a member", {OURS: partial(joining, members=10_000 // few, presence=True)}),
        Scenario("members of a group", {OURS: partial(members_of_a_group, members=10_000 // few)}),
        Scenario(
            "members who stay",
            {
                OURS: partial(
                    being_there, members=10_000 // few, intervals=1 if quick else 5, commands=_CommandCounter(server)
                )
            },
        ),
        Scenario(
            "idle members",
            {
                OURS: partial(idle_members, members=10_000 // few),
                PUBSUB: partial(idle_members, members=10_000 // few),
                BARE: partial(idle_members, members=10_000 // few),
            },
            once=frozenset({OURS, PUBSUB, BARE}),
        ),
        Scenario("1 MB there and back", each(partial(round_trip, trips=100 // few, size=1_000_000))),
        Scenario("async_to_sync(group_send)", each(partial(from_thread, calls=500 // few), OURS, CORE, PUBSUB)),
        Scenario("group_send_sync", {OURS: partial(from_thread, calls=10_000 // few, sync=True)}),
        Scenario(
            "kill -9 and restart",
            {
                OURS: partial(_restart, make=lambda url: ours(url=url), messages=1000 // few),
                CORE: partial(_restart, make=lambda url: channels_redis_core(CORE, url), messages=1000 // few),
                PUBSUB: partial(_restart, make=lambda url: channels_redis_pubsub(PUBSUB, url), messages=1000 // few),
            },
            once=frozenset({CORE, PUBSUB}),
        ),
    )
    count = _Counter(server)
    contenders = [
        ours(url=server.url, connections=count),
        channels_redis_core(CORE, server.url, count),
        channels_redis_pubsub(PUBSUB, server.url, count),
        bare_redis_py(BARE, server.url, count),
    ]
    if nats_server is not None:
        contenders.append(channels_nats(NATS, nats_server.port))
    servers = [each for each in (server.server, nats_server) if each is not None]
    running = partial(_running, server, servers)
    return BenchmarkSet("redis", tuple(contenders), scenarios, () if quick else _TARGETS, running)


@contextmanager
def _running(server: brokers.Redis, servers: list[Server]) -> Iterator[Callable[[], object]]:
    with run_servers(*servers):
        yield partial(server.ask, "FLUSHALL")


class _Counter:
    """Counts the clients of a server but itself."""

    def __init__(self, server: brokers.Redis) -> None:
        self._server = server
        self._client: redis.Redis | None = None

    def __call__(self) -> Connections:
        if self._client is None:
            self._client = self._server.client()
        info = self._client.info()
        return Connections(now=info["connected_clients"] - 1, ever=info["total_connections_received"])


class _CommandCounter:
    """Counts the scripts that a server has run, and the messages that it was given."""

    def __init__(self, server: brokers.Redis) -> None:
        self._server = server

    def __call__(self) -> int:
        with self._server.client() as client:
            statistics = client.info("commandstats")
        return sum(each["calls"] for name, each in statistics.items() if name in ("cmdstat_evalsha", "cmdstat_publish"))


def _restart(contender: Contender, *, make: Callable[[str], Contender], messages: int) -> Figures:
    """`restart` with a server of its own."""
    server = brokers.plain("redis")
    with brokers.running(server):
        return restart(make(server.url), messages=messages, kill_and_start=server.server.restart)


_TARGETS = (
    against(PUBSUB, "latency, 1 member", "p50 us", at_most=0.75),
    against(PUBSUB, "group_send to 1, 10 senders", "deliveries/s", at_least=6),
    against(NATS, "group_send to 1, 10 senders", "deliveries/s", at_least=1),
    against(PUBSUB, "group_send to 100", "deliveries/s", at_least=3),
    against(PUBSUB, "group_send to 100, 10 senders", "deliveries/s", at_least=3),
    against(PUBSUB, "group_send to 1000", "deliveries/s", at_least=3),
    against(PUBSUB, "group_send to 1000, 10 senders", "deliveries/s", at_least=3),
    against(PUBSUB, "group_send to 4 processes of 100", "deliveries/s", at_least=3),
    against(PUBSUB, "group_send to 4 processes of 100, 10 senders", "deliveries/s", at_least=3),
    against(PUBSUB, "send there and back, two processes", "p50 us", at_most=0.65),
    against(PUBSUB, "send, 1 sender", "deliveries/s", at_least=1.5),
    against(PUBSUB, "send, 16 senders", "deliveries/s", at_least=6),
    against(CORE, "jobs to two workers, 1 sender", "jobs/s", at_least=4),
    against(CORE, "jobs to two workers, 16 senders", "jobs/s", at_least=15),
    against(PUBSUB, "join and leave, shared group", "cycles/s", at_least=15),
    against(PUBSUB, "join and leave, own group", "cycles/s", at_least=1.8),
    against(PUBSUB, "idle members", "bytes each", at_most=0.27),
    against(PUBSUB, "idle members", "connections", at_most=2),
    against(PUBSUB, "1 MB there and back", "p50 us", at_most=1),
    against(PUBSUB, "async_to_sync(group_send)", "calls/s", at_least=3),
    against(PUBSUB, "async_to_sync(group_send)", "connections a call", at_most=0.01),
    sync_against(PUBSUB, at_least=15),
    Target(Figure("group_add of a member", OURS, "us each"), against=Figure("group_add", OURS, "us each"), at_most=1.3),
)
