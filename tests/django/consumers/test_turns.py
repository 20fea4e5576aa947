"""`django.consumers.turns`: when consumers are woken."""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial

import pytest

from django_anyio_channels.django.consumers.turns import WOKEN_AT_ONCE, Turns

pytestmark = pytest.mark.anyio

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nobody's")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def all_are(woken: list[int], count: int) -> None:
    async with asyncio.timeout(30):
        while len(woken) < count:
            await asyncio.sleep(0)


async def test_the_first_are_woken_at_once_and_some_in_each_iteration() -> None:
    turns, woken = Turns(), list[int]()
    for number in range(3 * WOKEN_AT_ONCE + 1):
        turns.ask(partial(woken.append, number))
    assert woken == list(range(WOKEN_AT_ONCE))
    for portion in (2, 3):
        await asyncio.sleep(0)
        assert woken == list(range(portion * WOKEN_AT_ONCE))
    await all_are(woken, 3 * WOKEN_AT_ONCE + 1)
    assert woken == list(range(3 * WOKEN_AT_ONCE + 1))


async def test_who_asks_later_comes_later() -> None:
    turns, woken = Turns(), list[int]()

    def wake(number: int) -> None:
        woken.append(number)
        if number < WOKEN_AT_ONCE:
            turns.ask(partial(wake, number + 2 * WOKEN_AT_ONCE))

    for _ in range(WOKEN_AT_ONCE):
        turns.ask(lambda: None)
    for number in range(2 * WOKEN_AT_ONCE):
        turns.ask(partial(wake, number))
    await all_are(woken, 3 * WOKEN_AT_ONCE)
    assert woken == list(range(3 * WOKEN_AT_ONCE))


async def test_who_may_come_later_is_never_woken_in_the_call() -> None:
    turns, woken = Turns(), list[int]()
    for number in range(2):
        turns.ask_later(partial(woken.append, number))
    turns.ask(partial(woken.append, 2))
    assert woken == [2]
    await asyncio.sleep(0)
    assert woken == [2, 0, 1]


async def test_after_a_while_others_are_woken_at_once_again() -> None:
    turns, woken = Turns(), list[int]()
    for turn in range(3):
        for number in range(WOKEN_AT_ONCE):
            turns.ask(partial(woken.append, number))
        assert len(woken) == (turn + 1) * WOKEN_AT_ONCE
        await asyncio.sleep(0)


async def test_what_raises_keeps_none_of_the_others_from_its_turn() -> None:
    turns, woken = Turns(), list[int]()
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(str(context["exception"])))

    def fail() -> None:
        raise LookupError("no turn")

    for number in range(WOKEN_AT_ONCE):
        turns.ask(partial(woken.append, number))
    turns.ask(fail)
    turns.ask(partial(woken.append, WOKEN_AT_ONCE))
    await all_are(woken, WOKEN_AT_ONCE + 1)
    assert reported == ["no turn"]


async def test_nobody_is_woken_in_the_context_of_another() -> None:
    turns, seen = Turns(), list[str]()
    VARIABLE.set("of the first")
    for _ in range(WOKEN_AT_ONCE):
        turns.ask(lambda: None)
    turns.ask(lambda: seen.append(VARIABLE.get()))
    async with asyncio.timeout(30):
        while not seen:
            await asyncio.sleep(0)
    assert seen == ["nobody's"]
