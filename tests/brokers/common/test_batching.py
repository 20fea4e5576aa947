"""Many calls, one round trip: `django_anyio_channels.brokers.common.batching`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from django_anyio_channels.brokers.common.batching import Batcher
from django_anyio_channels.core.exceptions import DeliveryUnknown, ListenerClosed, PayloadTooLarge

pytestmark = pytest.mark.anyio


class Airport:
    """Flights that a test lets land."""

    def __init__(self) -> None:
        self.flights: list[list[int]] = []
        self.may_land = anyio.Event()
        self.batcher: Batcher[int, str] = Batcher(self.fly, max_items=5)

    async def fly(self, items: list[int]) -> Sequence[str | Exception]:
        self.flights.append(items)
        await self.may_land.wait()
        if 666 in items:
            raise ZeroDivisionError
        return [PayloadTooLarge("too large") if item > 99 else str(item) for item in items]

    async def flown(self, count: int) -> None:
        with anyio.fail_after(30):
            while len(self.flights) < count:
                await checkpoint()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.batcher.run)
            yield
            tasks.cancel_scope.cancel()


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


async def test_what_arrives_during_a_flight_leaves_together_in_order() -> None:
    airport = Airport()
    results: dict[int, str] = {}

    async def call(item: int) -> None:
        results[item] = await airport.batcher.call(item)

    async with airport.open(), anyio.create_task_group() as callers:
        callers.start_soon(call, 0)
        await airport.flown(1)
        for item in range(1, 8):
            callers.start_soon(call, item)
            await settle()
        assert airport.flights == [[0]]
        airport.may_land.set()
    assert airport.flights == [[0], [1, 2, 3, 4, 5], [6, 7]]
    assert results == {item: str(item) for item in range(8)}


async def test_a_cancelled_caller_disturbs_nobody_and_what_had_not_left_stays() -> None:
    airport = Airport()
    results: list[str] = []

    async def call(item: int) -> None:
        results.append(await airport.batcher.call(item))

    async with airport.open(), anyio.create_task_group() as callers:
        async with anyio.create_task_group() as leavers:
            leavers.start_soon(call, 1)
            await settle()
            callers.start_soon(call, 2)
            await airport.flown(1)
            leavers.start_soon(call, 3)
            callers.start_soon(call, 4)
            await settle()
            leavers.cancel_scope.cancel()
        airport.may_land.set()
    assert [sorted(flight) for flight in airport.flights] == [[1], [2, 4]]
    assert sorted(results) == ["2", "4"]


async def test_nothing_flies_for_callers_who_have_all_left() -> None:
    airport = Airport()
    async with airport.open(), anyio.create_task_group() as callers:
        callers.start_soon(airport.batcher.call, 1)
        await airport.flown(1)
        async with anyio.create_task_group() as leavers:
            leavers.start_soon(airport.batcher.call, 2)
            await settle()
            leavers.cancel_scope.cancel()
        airport.may_land.set()
        await settle()
        assert await airport.batcher.call(3) == "3"
    assert airport.flights == [[1], [3]]


async def test_an_exception_among_the_results_is_its_own_call_s() -> None:
    airport = Airport()
    airport.may_land.set()
    async with airport.open():
        with pytest.raises(PayloadTooLarge):
            await airport.batcher.call(100)
        with pytest.raises(ZeroDivisionError):
            await airport.batcher.call(666)
        assert await airport.batcher.call(1) == "1"


async def test_closing_tells_what_had_left_from_what_had_not() -> None:
    airport = Airport()
    errors: dict[int, ListenerClosed] = {}

    async def call(item: int) -> None:
        try:
            await airport.batcher.call(item)
        except ListenerClosed as error:
            errors[item] = error

    async with anyio.create_task_group() as tasks, airport.open():
        tasks.start_soon(call, 1)
        await airport.flown(1)
        tasks.start_soon(call, 2)
        await settle()
        airport.batcher.close(ListenerClosed("redis://elsewhere is gone"))
        await settle()
        tasks.start_soon(call, 3)
        await settle()
    assert isinstance(errors[1], DeliveryUnknown)
    assert not isinstance(errors[2], DeliveryUnknown)
    assert all("redis://elsewhere is gone" in str(error) for error in errors.values()), errors
    assert set(errors) == {1, 2, 3}
