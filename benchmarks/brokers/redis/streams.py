"""One Redis server: the layer with a history beside this package's own publish/subscribe and `channels_redis.core`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from tests.support.brokers import redis as brokers

from ...harness.contenders import OURS, ours
from ...harness.runner import BenchmarkSet, Measure, Scenario, against
from ...scenarios.catching_up import catching_up
from ...scenarios.fan_out import fan_out
from ...scenarios.latency import latency
from ...scenarios.round_trip import round_trip
from .peers import channels_redis_core

PUBSUB, CORE = "our pub/sub", "core"
MISSED = (1, 100, 10_000)


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed."""
    few = 50 if quick else 1
    server = brokers.plain("redis")

    def each(measure: Callable[[int], Measure], number: int, core: int) -> dict[str, Measure]:
        """``number`` of something for both of ours, ``core`` for the core layer, which is slower."""
        counts = {OURS: number, PUBSUB: number, CORE: core}
        return {name: measure(-(-count // few)) for name, count in counts.items()}

    def group_send(members: int, number: int, core: int, *, senders: int = 1) -> dict[str, Measure]:
        return each(lambda count: partial(fan_out, members=members, messages=count, senders=senders), number, core)

    def to_other_processes(number: int, core: int, *, senders: int) -> dict[str, Measure]:
        return each(
            lambda count: partial(fan_out, members=100, messages=count, senders=senders, processes=2), number, core
        )

    def output() -> int:
        return int(server.ask("INFO", "stats")["total_net_output_bytes"])

    scenarios = (
        Scenario("latency, 1 member", each(lambda count: partial(latency, messages=count), 2500, 500)),
        Scenario("group_send to 1", group_send(1, 6000, 1500)),
        Scenario("group_send to 1, 10 senders", group_send(1, 20_000, 3000, senders=10)),
        Scenario("group_send to 100", group_send(100, 2000, 100)),
        Scenario("group_send to 100, 10 senders", group_send(100, 3000, 100, senders=10)),
        Scenario("group_send to 2 processes of 100, 10 senders", to_other_processes(3000, 100, senders=10)),
        Scenario("1 MB there and back", each(lambda count: partial(round_trip, trips=count, size=1_000_000), 100, 100)),
        *(
            Scenario(f"catching up {missed}", {OURS: partial(catching_up, missed=missed, output=output)})
            for missed in (MISSED[:2] if quick else MISSED)
        ),
    )
    streams = ours(url=brokers.with_streams(server.url), options={"history_length": 2 * max(MISSED)})
    contenders = (
        streams,
        replace(ours(url=server.url), name=PUBSUB),
        channels_redis_core(CORE, server.url),
    )
    return BenchmarkSet("streams", contenders, scenarios, () if quick else _TARGETS, partial(_running, server))


@contextmanager
def _running(server: brokers.Redis) -> Iterator[Callable[[], object]]:
    with brokers.running(server):
        yield partial(server.ask, "FLUSHALL")


_TARGETS = (
    against(PUBSUB, "latency, 1 member", "p50 us", at_most=1.3),
    against(PUBSUB, "group_send to 1", "deliveries/s", at_least=0.7),
    against(PUBSUB, "group_send to 1, 10 senders", "deliveries/s", at_least=0.7),
    against(PUBSUB, "group_send to 100", "deliveries/s", at_least=0.7),
    against(PUBSUB, "group_send to 100, 10 senders", "deliveries/s", at_least=0.7),
    against(PUBSUB, "group_send to 2 processes of 100, 10 senders", "deliveries/s", at_least=0.7),
    against(CORE, "latency, 1 member", "p50 us", at_most=0.5),
    against(CORE, "group_send to 1, 10 senders", "deliveries/s", at_least=5),
)
