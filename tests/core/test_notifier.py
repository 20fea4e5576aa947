"""Notifications wake waiting tasks, on any event loop, and none is lost by a cancelled one."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from django_anyio_channels.core.notifier import Notifier, waiter_type
from tests.support.scripted import TIME_LIMIT

pytestmark = pytest.mark.anyio


async def test_a_notification_for_a_cancelled_task_goes_to_the_next() -> None:
    for steps in range(5):
        notifier = Notifier(waiter_type())
        woken: list[str] = []

        async def wait(name: str, notifier: Notifier = notifier, woken: list[str] = woken) -> None:
            await notifier.wait()
            woken.append(name)

        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as staying:
                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(wait, "leaving")
                    await anyio.wait_all_tasks_blocked()
                    staying.start_soon(wait, "staying")
                    await anyio.wait_all_tasks_blocked()
                    notifier.notify()
                    for _ in range(steps):
                        await checkpoint()
                    leaving.cancel_scope.cancel()
                if "leaving" in woken:
                    notifier.notify()
        assert "staying" in woken


async def test_a_notification_without_a_waiting_task_is_not_kept() -> None:
    notifier = Notifier(waiter_type())
    assert not notifier.notify()
    notifier.notify_all()
    with anyio.move_on_after(0.01) as scope:
        await notifier.wait()
    assert scope.cancelled_caught
    assert not notifier.has_waiters


async def test_all_are_woken_in_the_order_in_which_they_wait() -> None:
    notifier = Notifier(waiter_type())
    woken: list[int] = []

    async def wait(number: int) -> None:
        await notifier.wait()
        woken.append(number)

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
                await anyio.wait_all_tasks_blocked()
            assert notifier.has_waiters
            assert notifier.notify()
            await anyio.wait_all_tasks_blocked()
            assert woken == [0]
            notifier.notify_all()
            assert not notifier.has_waiters
    assert sorted(woken) == [0, 1, 2]
