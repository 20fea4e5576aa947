"""The rate of jobs to two workers of a normal channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from ..harness.children import Child, Parent, first_answer
from ..harness.contenders import Contender, Layer, Message
from ..harness.deliveries import CLOSING, PATIENCE, Pace, Tally, patiently, script
from ..harness.measuring import Figures, send_all

QUEUE = "bench-jobs"


def competing_workers(
    contender: Contender, *, jobs: int, senders: int = 1, processes: int = 0, one_idles: bool = False
) -> Figures:
    """Jobs for a normal channel that two workers read: two tasks here, or with ``processes`` 2 two other processes.

    Also the share of the worker that got fewer: one half is the best there is. ``one_idles`` is for a layer that gives
    everything to one of two processes: the other one does not even learn that the work is done.
    """
    children = [Child(partial(_worker_in_child, contender)) for _ in range(processes)]
    try:
        return asyncio.run(_competing_workers(contender, script(senders, jobs), children, one_idles))
    finally:
        for child in children:
            child.close()


async def _competing_workers(
    contender: Contender, scripts: list[list[Message]], children: Sequence[Child], one_idles: bool
) -> Figures:
    pace = Pace()
    expected = sum(map(len, scripts))
    done, all_done = 0, asyncio.Event()

    def beat(jobs: int = 1) -> None:
        nonlocal done
        done += jobs
        pace.allow(jobs)
        if done >= expected:
            all_done.set()

    async with contender.open() as layer:
        if children:
            for child in children:
                child.answer(PATIENCE)
                child.on_beat(beat)
        else:
            tasks = [asyncio.create_task(_work(layer, beat)) for _ in range(2)]
            await asyncio.sleep(0)
        began = perf_counter()
        await send_all(partial(layer.send, QUEUE), scripts, pace)
        await patiently(all_done.wait())
        finished = perf_counter()
        for _ in range(2):
            await layer.send(QUEUE, CLOSING)
        if one_idles:
            done_by = [await asyncio.to_thread(first_answer, children, PATIENCE), []]
        elif children:
            done_by = [await asyncio.to_thread(child.answer, PATIENCE) for child in children]
        else:
            await patiently(asyncio.gather(*tasks))
            done_by = [task.result() for task in tasks]
    values = {"jobs/s": expected / (finished - began), "share of the idler worker": min(map(len, done_by)) / expected}
    return Figures(values, _tally_of_jobs(scripts, [job for jobs in done_by for job in jobs]))


async def _work(layer: Layer, beat: Callable[[], object]) -> list[Message]:
    jobs = []
    while (job := await layer.receive(QUEUE)) != CLOSING:
        jobs.append(job)
        beat()
        # Work that waits for something, as most does: the other one may go on meanwhile.
        await asyncio.sleep(0)
    return jobs


def _worker_in_child(contender: Contender, parent: Parent) -> list[Message]:
    async def work() -> list[Message]:
        async with contender.open() as layer:
            task = asyncio.create_task(_work(layer, parent.beat))
            await asyncio.sleep(contender.moment)
            parent.tell("ready")
            return await task

    return asyncio.run(work())


def _tally_of_jobs(scripts: list[list[Message]], done: list[Message]) -> Tally:
    open_jobs = {(job["sender"], job["number"]): job for jobs in scripts for job in jobs}
    tally = Tally(expected=len(open_jobs))
    for job in done:
        if open_jobs.pop((job["sender"], job["number"]), None) == job:
            tally.right += 1
        else:
            tally.wrong += 1
    return tally
