"""The memory and the connections of members that wait."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..harness.contenders import Contender, Message
from ..harness.deliveries import Tally, patiently, script
from ..harness.measuring import GROUP, Figures, traced

T = TypeVar("T")


def idle_members(contender: Contender, *, members: int) -> Figures:
    """Memory of a member that waits, beyond the task in which it waits; and the broker's connections for all."""

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    async def measure() -> Figures:
        before = contender.connections().now if contender.connections else 0
        async with contender.open() as layer:
            await layer.group_add(GROUP, await layer.new_channel())
            loop = asyncio.get_running_loop()
            task_bytes, tasks = await _growth(members, lambda: _start(wait(loop.create_future())))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            tasks.clear()

            async def start() -> asyncio.Task[Message]:
                name = await layer.new_channel()
                await layer.group_add(GROUP, name)
                task = asyncio.create_task(layer.receive(name))
                await asyncio.sleep(0)
                return task

            member_bytes, readers = await _growth(members, start)
            values = {"bytes each": member_bytes - task_bytes}
            if contender.connections:
                values["connections"] = contender.connections().now - before
            [message] = script(1, 1)[0]
            await layer.group_send(GROUP, message)
            await patiently(asyncio.gather(*readers))
            right = sum(reader.result() == message for reader in readers)
            return Figures(values, Tally(members, right, members - right))

    tracemalloc.start()
    return asyncio.run(measure())


async def _start(wait: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(wait)
    await asyncio.sleep(0)
    return task


async def _growth(count: int, make: Callable[[], Awaitable[T]]) -> tuple[float, list[T]]:
    before = traced()
    made = [await make() for _ in range(count)]
    return (traced() - before) / count, made
