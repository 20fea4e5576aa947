"""When a connection is probed, and when it has failed: counted in ticks of a clock that the test advances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from django_anyio_channels.brokers.common.watchdog import Watchdog


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """An event loop with one timer."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.timer: Timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.delays.append(delay)
        self.timer = Timer(callback)
        return self.timer

    def tick(self) -> None:
        assert self.timer.callback is not None, "the timer was cancelled, or has fired"
        callback, self.timer.callback = self.timer.callback, None
        callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_a_silent_connection_is_probed_once_and_fails_within_the_interval(loop: Loop) -> None:
    calls: list[str] = []
    watched = Watchdog(8.0, lambda: calls.append("probe"), calls.append)
    watched.start()
    loop.tick()
    assert calls == []
    loop.tick()
    assert calls == ["probe"]
    loop.tick()
    loop.tick()
    assert calls == ["probe", "no answer for 8 s (probe_interval)"]
    assert loop.delays == [2.0] * 4
    assert loop.timer.callback is None, "it watches no more"
    watched.stop()


def test_a_connection_that_answers_is_probed_again_and_again(loop: Loop) -> None:
    probes = 0

    def probe() -> None:
        nonlocal probes
        probes += 1
        watched.received = True

    watched = Watchdog(1.0, probe, pytest.fail)
    watched.start()
    for _ in range(20):
        loop.tick()
    assert probes == 10


def test_a_busy_connection_is_not_probed(loop: Loop) -> None:
    watched = Watchdog(1.0, lambda: pytest.fail("probed"), pytest.fail)
    watched.start()
    for _ in range(20):
        watched.received = True
        loop.tick()


def test_a_busy_connection_is_probed_where_the_peer_wants_to_receive(loop: Loop) -> None:
    probes: list[int] = []
    watched = Watchdog(1.0, lambda: probes.append(1), pytest.fail, always_probe=True)
    watched.start()
    for _ in range(8):
        watched.received = True
        loop.tick()
    assert len(probes) == 4


def test_ticks_and_the_first_probe_can_be_chosen(loop: Loop) -> None:
    calls: list[str] = []
    watched = Watchdog(9.0, lambda: calls.append("probe"), calls.append, ticks=6, probe_after=4)
    watched.start()
    for _ in range(4):
        loop.tick()
    assert calls == []
    loop.tick()
    assert calls == ["probe"]
    loop.tick()
    assert calls == ["probe", "no answer for 9 s (probe_interval)"]
    assert loop.delays == [1.5] * 6


def test_a_stopped_watchdog_does_nothing(loop: Loop) -> None:
    watched = Watchdog(1.0, lambda: pytest.fail("probed"), pytest.fail)
    watched.stop()
    watched.start()
    timer = loop.timer
    watched.stop()
    watched.stop()
    assert timer.callback is None


def test_the_clock_is_the_running_loops() -> None:
    async def main() -> str:
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        Watchdog(0.02, lambda: None, failed.set_result).start()
        return await asyncio.wait_for(failed, 30)

    assert asyncio.run(main()) == "no answer for 0.02 s (probe_interval)"
