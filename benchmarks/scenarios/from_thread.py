"""The rate of calls from code without an event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from functools import partial
from time import perf_counter
from typing import Any, cast

from asgiref.sync import async_to_sync

from ..harness.contenders import Contender, Message
from ..harness.deliveries import HALF, PATIENCE, Tally, script
from ..harness.measuring import GROUP, Figures


def from_thread(contender: Contender, *, calls: int, sync: bool = False) -> Figures:
    """``async_to_sync(group_send)``, or ``group_send_sync``, from a plain thread while another one has the loop.

    Only the calls are timed. That loop turns every millisecond, as a busy server's does. The member reads between
    batches of calls, since some layers break when two threads are at work in them.
    """
    layer = contender.make()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    wanted: asyncio.Queue[int] = asyncio.Queue()
    answers: queue.SimpleQueue[list[Message]] = queue.SimpleQueue()

    async def turn() -> None:
        while True:  # noqa: ASYNC110 - the turning itself is wanted, no event
            await asyncio.sleep(0.001)

    async def member() -> None:
        """Reads as many messages as it is asked for; 0 ends it."""
        name = await layer.new_channel()
        await layer.group_add(GROUP, name)
        turning = asyncio.create_task(turn())
        answers.put([])
        while count := await wanted.get():
            answers.put([await layer.receive(name) for _ in range(count)])
        turning.cancel()
        await contender.close(layer)

    def read(count: int) -> list[Message]:
        loop.call_soon_threadsafe(wanted.put_nowait, count)
        return answers.get(timeout=PATIENCE)

    def call(message: Message) -> None:
        async_to_sync(layer.group_send)(GROUP, message)

    if sync:
        call = partial(cast(Any, layer).group_send_sync, GROUP)
    reader = asyncio.run_coroutine_threadsafe(member(), loop)
    try:
        answers.get(timeout=PATIENCE)
        [messages] = script(1, calls)
        seconds = 0.0
        received: list[Message] = []
        before = contender.connections().ever if contender.connections else 0
        for first in range(0, calls, HALF):
            batch = messages[first : first + HALF]
            began = perf_counter()
            for message in batch:
                call(message)
            seconds += perf_counter() - began
            received += read(len(batch))
        values = {"calls/s": calls / seconds}
        if contender.connections:
            values["connections a call"] = (contender.connections().ever - before) / calls
        loop.call_soon_threadsafe(wanted.put_nowait, 0)
        reader.result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    right = sum(map(Message.__eq__, received, messages))
    return Figures(values, Tally(calls, right, calls - right))
