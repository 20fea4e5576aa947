"""A lean client: many WebSockets in one process, counting and checking what they receive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CONNECTING_AT_ONCE = 50
PATIENCE = 60.0
"""Seconds after which a message counts as lost."""
SECONDS_AT_RATE = 5.0
"""How long messages are sent at a fixed rate."""
_DIGITS = 8


def text_of(number: int) -> str:
    """Message ``number``, of 200 bytes."""
    return f"{number:0{_DIGITS}}".ljust(200, "x")


@dataclass
class Crowd:
    """All sockets, and what they have received together."""

    sockets: list[WSTransport] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    sent_at: dict[int, float] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    measures_latency: bool = False
    _left: dict[int, int] = field(default_factory=dict)
    _complete: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    def expect(self, number: int) -> asyncio.Future[None]:
        """Done when every socket has this message."""
        self._left[number] = len(self.sockets)
        self.sent_at[number] = perf_counter()
        done = self._complete[number] = asyncio.get_running_loop().create_future()
        return done

    def percentiles(self, when: str) -> dict[str, float]:
        """The latencies so far, in milliseconds."""
        found = quantiles(self.latencies, n=100, method="inclusive")
        return {f"p50 ms{when}": found[49] * 1000, f"p99 ms{when}": found[98] * 1000}

    def received(self, number: int, expected: int) -> None:
        """Count a message of one socket, which should have been number ``expected``."""
        if number != expected:
            self.wrong += 1
            return
        self.right += 1
        if self.measures_latency:
            self.latencies.append(perf_counter() - self.sent_at[number])
        self._left[number] -= 1
        if not self._left[number]:
            del self._left[number]
            self._complete.pop(number).set_result(None)


class _Member(WSListener):
    def __init__(self, crowd: Crowd, start: int) -> None:
        self._crowd = crowd
        self._next = 0
        self._start = start

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            start = self._start
            self._crowd.received(int(payload[start : start + _DIGITS]), self._next)
            self._next += 1


@asynccontextmanager
async def crowd(port: int, path: str, sockets: int) -> AsyncIterator[tuple[Crowd, WSTransport]]:
    """Open sockets at ``path``, and one that has them sent what it sends."""
    members = Crowd()
    start = len('{"type": "bench.message", "text": "') if path == "json" else 0
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def connect(name: str, listener: Any) -> WSTransport:
        async with gate:
            transport, _ = await ws_connect(
                lambda: listener, f"ws://127.0.0.1:{port}/{name}", websocket_handshake_timeout=PATIENCE
            )
            return transport

    control = await connect("control-ready" if path == "ready" else "control", WSListener())
    path = "text" if path == "ready" else path
    members.sockets = await asyncio.gather(*(connect(path, _Member(members, start)) for _ in range(sockets)))
    try:
        yield members, control
    finally:
        for socket in (*members.sockets, control):
            socket.disconnect()


@dataclass(frozen=True)
class Measured:
    """What one run found."""

    values: dict[str, float]
    right: int
    wrong: int
    expected: int


async def measure(port: int, path: str, sockets: int, messages: int, window: int, rate: float) -> Measured:
    """Have messages sent to the group, ``window`` of them on their way at once, and then ``rate`` deliveries/s."""
    began_connecting = perf_counter()
    async with crowd(port, path, sockets) as (members, control):
        connected = perf_counter() - began_connecting
        numbers = iter(range(messages))
        at_rate = max(5, int(rate * SECONDS_AT_RATE / sockets))

        async def send_one_after_the_other() -> None:
            for number in numbers:
                done = members.expect(number)
                control.send(WSMsgType.TEXT, text_of(number).encode())
                await asyncio.wait_for(done, PATIENCE)

        # Subscriptions and imports of the first message are not what is measured.
        warm = max(2, messages // 10)
        for number in (next(numbers) for _ in range(warm)):
            done = members.expect(number)
            control.send(WSMsgType.TEXT, text_of(number).encode())
            await asyncio.wait_for(done, PATIENCE)
        members.measures_latency = True
        before, began = members.right, perf_counter()
        await asyncio.gather(*(send_one_after_the_other() for _ in range(window)))
        seconds = perf_counter() - began
        values = {"deliveries/s": (members.right - before) / seconds, **members.percentiles("")}
        members.latencies.clear()
        complete = []
        for number in range(messages, messages + at_rate):
            complete.append(members.expect(number))
            control.send(WSMsgType.TEXT, text_of(number).encode())
            await asyncio.sleep(sockets / rate)
        await asyncio.wait_for(asyncio.gather(*complete), PATIENCE)
        values |= {**members.percentiles(f" at {rate:g}/s"), "s to connect": connected}
        return Measured(values, members.right, members.wrong, sockets * (messages + at_rate))
