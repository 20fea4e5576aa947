"""The embedded broker beside Channels' own layer for one process, and beside the least that asyncio needs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...harness.contenders import OURS, ours
from ...harness.runner import BenchmarkSet, Figure, Measure, Scenario, Target, against, sync_against
from ...scenarios.catching_up import catching_up
from ...scenarios.competing_workers import competing_workers
from ...scenarios.fan_out import fan_out
from ...scenarios.from_thread import from_thread
from ...scenarios.idle_members import idle_members
from ...scenarios.latency import latency
from ...scenarios.membership import membership
from ...scenarios.round_trip import round_trip
from ...scenarios.silent_member import silent_member
from .peers import bare_queues, channels_in_memory

CHANNELS, BARE = "channels", "bare queues"
HISTORY = "ours with a history"
MISSED = 10_000


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed.

    Channels' layer looks at every channel on each ``receive`` and ``group_send``, so its time grows with the square of
    the members; it gets fewer messages.
    """

    def each(measure: Measure) -> dict[str, Measure]:
        return dict.fromkeys((OURS, CHANNELS, BARE), measure)

    def group_send(members: int, ours: int, channels: int, bare: int, senders: int = 1) -> dict[str, Measure]:
        messages = {OURS: ours, HISTORY: ours, CHANNELS: channels, BARE: bare}
        return {
            name: partial(fan_out, members=members, messages=-(-count // few), senders=senders)
            for name, count in messages.items()
        }

    few = 50 if quick else 1
    scenarios = (
        Scenario("latency, 1 member", each(partial(latency, messages=2500 // few))),
        Scenario("group_send to 1", group_send(1, 8000, 2500, 15_000)),
        Scenario("group_send to 1, 10 senders", group_send(1, 8000, 2500, 15_000, senders=10)),
        Scenario("group_send to 100", group_send(100, 400, 30, 800)),
        Scenario("group_send to 1000", group_send(1000, 60, 2, 100)),
        Scenario(
            "group_send to 5000" if not quick else "group_send to 500",
            group_send(5000, 12, 1, 20) if not quick else group_send(500, 3, 1, 3),
            once=frozenset({CHANNELS}),
        ),
        Scenario("send, receive", each(partial(fan_out, members=1, messages=5000 // few, direct=True))),
        Scenario("send there and back", each(partial(round_trip, trips=1500 // few))),
        Scenario("1 MB there and back", each(partial(round_trip, trips=100 // few, size=1_000_000))),
        Scenario("join and leave, shared group", each(partial(membership, cycles=2500 // few, shared=True))),
        Scenario("join and leave, own group", each(partial(membership, cycles=2500 // few, shared=False))),
        Scenario(
            "idle members",
            {
                OURS: partial(idle_members, members=10_000 // few),
                CHANNELS: partial(idle_members, members=1000 // few),
                BARE: partial(idle_members, members=10_000 // few),
            },
        ),
        Scenario("a member that never reads", each(partial(silent_member, members=10, messages=1000 // few))),
        # Channels' layer forgets the queue that a second reader waits on.
        Scenario(
            "two workers, one queue",
            dict.fromkeys((OURS, BARE), partial(competing_workers, jobs=5000 // few)),
        ),
        Scenario("async_to_sync(group_send)", dict.fromkeys((OURS, CHANNELS), partial(from_thread, calls=500 // few))),
        Scenario(f"catching up {MISSED}", {HISTORY: partial(catching_up, missed=MISSED // few)}),
        Scenario("group_send_sync", {OURS: partial(from_thread, calls=10_000 // few, sync=True)}),
    )
    history = replace(ours(url="memory://", options={"history_length": 2 * MISSED}), name=HISTORY)
    return BenchmarkSet(
        "memory",
        (ours(url="memory://"), history, channels_in_memory(CHANNELS), bare_queues(BARE)),
        scenarios,
        () if quick else _TARGETS,
    )


def _silent(figure: str, against: str, *, at_least: float | None = None, at_most: float | None = None) -> Target:
    scenario = "a member that never reads"
    return Target(Figure(scenario, OURS, figure), Figure(scenario, OURS, against), at_least=at_least, at_most=at_most)


def _with_history(scenario: str) -> Target:
    # What a history costs: 15 % of the time at most.
    unit = "deliveries/s"
    return Target(Figure(scenario, HISTORY, unit), Figure(scenario, OURS, unit), at_least=1 / 1.15)


_TARGETS = (
    _with_history("group_send to 1"),
    _with_history("group_send to 1, 10 senders"),
    _with_history("group_send to 100"),
    _with_history("group_send to 1000"),
    against(CHANNELS, "latency, 1 member", "p50 us", at_most=0.5),
    against(CHANNELS, "group_send to 1", "deliveries/s", at_least=2),
    against(CHANNELS, "group_send to 100", "deliveries/s", at_least=15),
    against(CHANNELS, "group_send to 1000", "deliveries/s", at_least=80),
    against(CHANNELS, "group_send to 5000", "deliveries/s", at_least=80),
    # Nearly all of it is `async_to_sync` itself; equal means equal within the noise.
    against(CHANNELS, "async_to_sync(group_send)", "calls/s", at_least=0.95),
    sync_against(CHANNELS, at_least=10),
    _silent("deliveries/s beside it", "deliveries/s without it", at_least=0.9),
    _silent("bytes kept of 2000", "bytes kept of 1000", at_most=1.1),
)
