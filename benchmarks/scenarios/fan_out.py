"""What is measured. Each function measures one contender once, in a process of its own, and verifies what arrived.

Rates count what all members of all processes have read and checked, from the first call to the last reader's return
to waiting. Messages have about 200 bytes.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from statistics import median, quantiles
from time import perf_counter
from typing import Any, TypeVar, cast

from asgiref.sync import async_to_sync

from .children import Child, Parent, first_answer
from .contenders import Contender, Layer, Message
from .deliveries import CLOSING, HALF, PATIENCE, WINDOW, Crowd, Pace, Slowest, Tally, patiently, script

T = TypeVar("T")

GROUP = "bench"
QUEUE = "bench-jobs"

Send = Callable[[Message], Awaitable[None]]


@dataclass
class Figures:
    """What one measurement found: a number for each unit, and whether the messages were the right ones."""

    values: dict[str, float]
    tally: Tally = field(default_factory=Tally)


# ---- groups ---------------------------------------------------------------------------------------------------------


def latency(contender: Contender, *, messages: int) -> Figures:
    """From the call of ``group_send`` until the one member, in the same loop, has the message; one at a time."""

    async def measure() -> Figures:
        async with contender.open() as layer:
            name = await layer.new_channel()
            await layer.group_add(GROUP, name)
            [sent] = script(1, messages)
            return await _trips(sent, partial(layer.group_send, GROUP), partial(layer.receive, name))

    return asyncio.run(measure())


def fan_out(
    contender: Contender,
    *,
    members: int,
    messages: int,
    senders: int = 1,
    processes: int = 0,
    direct: bool = False,
) -> Figures:
    """``senders`` tasks, each awaiting its calls, to one group with ``members`` in this process or in each of several.

    ``direct`` uses ``send`` to the channel of the one member instead.
    """
    expected = script(senders, messages)
    children = [Child(partial(_crowd_in_child, contender, expected, members)) for _ in range(processes)]
    try:
        return asyncio.run(_fan_out(contender, expected, members, children, direct))
    finally:
        for child in children:
            child.close()


async def _fan_out(
    contender: Contender, expected: list[list[Message]], members: int, children: Sequence[Child], direct: bool
) -> Figures:
    pace, ended = Pace(), asyncio.Event()
    async with contender.open() as layer:
        if children:
            names = [name for child in children for name in child.answer(PATIENCE)]
            halves = Slowest(len(children), pace.allow)
            for child in children:
                _count_halves(child, halves)
        else:
            crowd = Crowd(layer, expected, on_half=pace.allow, on_end=ended.set)
            await crowd.join(GROUP, members)
            await asyncio.sleep(contender.moment)
            names = crowd.names
        send = partial(layer.send, names[0]) if direct else partial(layer.group_send, GROUP)
        began = perf_counter()
        await _send_all(send, expected, pace)
        if children:
            finished = max([await asyncio.to_thread(child.answer, PATIENCE) for child in children])
            await send(CLOSING)
            tally = sum([await asyncio.to_thread(child.answer, PATIENCE) for child in children], Tally())
        else:
            await patiently(ended.wait())
            finished = perf_counter()
            await send(CLOSING)
            await crowd.leave()
            tally = crowd.tally
    return Figures({"deliveries/s": tally.expected / (finished - began)}, tally)


def _crowd_in_child(contender: Contender, expected: list[list[Message]], members: int, parent: Parent) -> Tally:
    async def read() -> Tally:
        async with contender.open() as layer:
            crowd = Crowd(layer, expected, on_half=parent.beat, on_end=lambda: parent.tell(perf_counter()))
            await crowd.join(GROUP, members)
            await asyncio.sleep(contender.moment)
            parent.tell(crowd.names)
            await crowd.leave()
            return crowd.tally

    return asyncio.run(read())


def _count_halves(child: Child, halves: Slowest) -> None:
    read = 0

    def beat(beats: int) -> None:
        nonlocal read
        for _ in range(beats):
            read += 1
            halves.read(read)

    child.on_beat(beat)


async def _send_all(send: Send, scripts: list[list[Message]], pace: Pace) -> None:
    async def send_one_by_one(messages: list[Message]) -> None:
        for message in messages:
            await pace.turn()
            await send(message)

    if len(scripts) == 1:
        await send_one_by_one(scripts[0])
    else:
        await asyncio.gather(*map(send_one_by_one, scripts))


def silent_member(contender: Contender, *, members: int, messages: int) -> Figures:
    """The rate of ``members`` that read, beside one that never does and without it, and what that one costs.

    Two groups take turns of a window each, so that both rates are measured at the same time.
    """
    turns = -(-messages // WINDOW)
    expected = script(1, turns * WINDOW)

    async def rates() -> tuple[float, float, Tally]:
        async with contender.open() as layer:
            without = await _Audience.of(layer, GROUP, expected, members)
            beside = await _Audience.of(layer, f"{GROUP}-silent", expected, members)
            await layer.group_add(beside.group, await layer.new_channel())
            for turn in range(turns):
                for audience in (without, beside) if turn % 2 else (beside, without):
                    await audience.hear(expected[0][turn * WINDOW : (turn + 1) * WINDOW])
            return await without.rate(), await beside.rate(), without.crowd.tally + beside.crowd.tally

    async def kept() -> tuple[float, float]:
        async with contender.open() as layer:
            await layer.group_add(GROUP, await layer.new_channel())
            before = _traced()
            sizes = []
            for _ in range(2):
                for message in script(1, 1000)[0]:
                    await layer.group_send(GROUP, message)
                    await asyncio.sleep(0)
                sizes.append(_traced() - before)
            return sizes[0], sizes[1]

    without, beside, tally = asyncio.run(rates())
    tracemalloc.start()
    first, second = asyncio.run(kept())
    values = {
        "deliveries/s without it": without,
        "deliveries/s beside it": beside,
        "bytes kept of 1000": first,
        "bytes kept of 2000": second,
    }
    return Figures(values, tally)


@dataclass
class _Audience:
    """A crowd that hears a window of messages at a time, and how long that took in all."""

    layer: Layer
    group: str
    crowd: Crowd
    pace: Pace
    deliveries: int
    seconds: float = 0.0

    @classmethod
    async def of(cls, layer: Layer, group: str, expected: list[list[Message]], members: int) -> _Audience:
        pace = Pace()
        crowd = Crowd(layer, expected, on_half=pace.allow, on_end=_nothing)
        await crowd.join(group, members)
        return cls(layer, group, crowd, pace, members * sum(map(len, expected)))

    async def hear(self, messages: list[Message]) -> None:
        began = perf_counter()
        await _send_all(partial(self.layer.group_send, self.group), [messages], self.pace)
        await self.pace.all_read()
        self.seconds += perf_counter() - began

    async def rate(self) -> float:
        await self.layer.group_send(self.group, CLOSING)
        await self.crowd.leave()
        return self.deliveries / self.seconds


def _nothing() -> None:
    """Who knows the end otherwise needs no call."""


def membership(contender: Contender, *, cycles: int, shared: bool) -> Figures:
    """``new_channel``, ``group_add``, ``group_discard``: in a group that has a member already, or in a new one each."""

    async def measure() -> Figures:
        async with contender.open() as layer:
            witness = await layer.new_channel()
            await layer.group_add(GROUP, witness)
            groups = [GROUP if shared else f"{GROUP}-{number}" for number in range(cycles)]
            began = perf_counter()
            for group in groups:
                name = await layer.new_channel()
                await layer.group_add(group, name)
                await layer.group_discard(group, name)
            elapsed = perf_counter() - began
            return Figures({"cycles/s": cycles / elapsed}, await _who_hears(layer, groups[-1], witness))

    return asyncio.run(measure())


async def _who_hears(layer: Layer, group: str, witness: str) -> Tally:
    """After cycles of joining and leaving: a member that stays hears a message once, one that left does not."""
    gone, stays = await layer.new_channel(), await layer.new_channel()
    await layer.group_add(group, gone)
    await layer.group_add(group, stays)
    await layer.group_discard(group, gone)
    [message] = script(1, 1)[0]
    names = [stays, witness] if group == GROUP else [stays]
    readers = [asyncio.create_task(layer.receive(name)) for name in (gone, *names)]
    # Some layers hear nothing for a name before somebody waits on it, and need a moment to begin.
    await asyncio.wait(readers, timeout=0.1)
    await layer.group_send(group, message)
    # What comes first to the one that left is what was sent to itself, not to the group.
    await layer.send(gone, CLOSING)
    first, *heard = [await asyncio.wait_for(reader, PATIENCE) for reader in readers]
    right = sum(each == message for each in heard)
    return Tally(len(heard), right, len(heard) - right + (first != CLOSING))


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
    before = _traced()
    made = [await make() for _ in range(count)]
    return (_traced() - before) / count, made


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# ---- channels -------------------------------------------------------------------------------------------------------


def round_trip(contender: Contender, *, trips: int, size: int = 0, processes: int = 1) -> Figures:
    """``send`` to a channel whose reader sends it back: a task beside, or with ``processes`` 2 in another one."""
    child = Child(partial(_echo_in_child, contender)) if processes == 2 else None
    sent = script(1, trips)[0]
    if size:
        sent = [{**message, "text": "m" * size} for message in sent]

    async def measure() -> Figures:
        async with contender.open() as layer:
            back = await layer.new_channel()
            if child is None:
                there = await layer.new_channel()
                echo = asyncio.create_task(_echo(layer, there))
            else:
                there = child.answer(PATIENCE)
            await layer.send(there, {"type": "bench.back", "to": back})
            figures = await _trips(sent, partial(layer.send, there), partial(layer.receive, back))
            await layer.send(there, CLOSING)
            if child is None:
                await patiently(echo)
            else:
                await asyncio.to_thread(child.answer, PATIENCE)
            return figures

    try:
        return asyncio.run(measure())
    finally:
        if child is not None:
            child.close()


async def _echo(layer: Layer, here: str) -> None:
    back = (await layer.receive(here))["to"]
    while (message := await layer.receive(here)) != CLOSING:
        await layer.send(back, message)


def _echo_in_child(contender: Contender, parent: Parent) -> None:
    async def echo() -> None:
        async with contender.open() as layer:
            here = await layer.new_channel()
            receive = asyncio.create_task(_echo(layer, here))
            # Some layers hear nothing for a name before somebody waits on it.
            await asyncio.sleep(contender.moment)
            parent.tell(here)
            await receive

    asyncio.run(echo())


async def _trips(sent: list[Message], send: Send, receive: Callable[[], Awaitable[Message]]) -> Figures:
    """Send one message at a time, and wait until a waiting reader has it."""
    loop = asyncio.get_running_loop()
    arrivals: list[asyncio.Future[tuple[float, Message]]] = [loop.create_future() for _ in sent]

    async def read() -> None:
        for arrival in arrivals:
            message = await receive()
            arrival.set_result((perf_counter(), message))

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    seconds = []
    right = 0
    for message, arrival in zip(sent, arrivals, strict=True):
        began = perf_counter()
        await send(message)
        arrived, received = await arrival if arrival.done() else await asyncio.wait_for(arrival, PATIENCE)
        seconds.append(arrived - began)
        right += received == message
    await reader
    steady = seconds[len(seconds) // 10 :]
    values = {"p50 us": median(steady) * 1e6, "p99 us": quantiles(steady, n=100, method="inclusive")[-1] * 1e6}
    return Figures(values, Tally(len(sent), right, len(sent) - right))


def competing_workers(
    contender: Contender, *, jobs: int, senders: int = 1, processes: int = 0, one_idles: bool = False
) -> Figures:
    """Jobs for a normal channel that two workers read: two tasks here, or with ``processes`` 2 two other processes.

    Also the share of the worker that got fewer: one half is the best there is. ``one_idles`` is for a layer that gives
    everything to one of two processes: the other one hears not even that the work is done.
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
        await _send_all(partial(layer.send, QUEUE), scripts, pace)
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


# ---- a broker that dies ---------------------------------------------------------------------------------------------


def restart(contender: Contender, *, messages: int, kill_and_start: Callable[[], object]) -> Figures:
    """Numbered messages from one layer to a group's member on another one, while the broker is killed and comes back.

    How many of those whose ``group_send`` returned never arrived, how many it refused, whether the reader died, and how
    long after the broker's return it had a message again. The broker dies after a third of the messages; there is one
    every two milliseconds.
    """
    [sent] = script(1, messages)

    async def measure() -> Figures:
        accepted: list[Message] = []
        received: list[Message] = []
        arrivals: list[float] = []
        refused = 0

        def outage() -> float:
            kill_and_start()
            return perf_counter()

        async with contender.open() as sender, contender.open() as receiver:
            name = await receiver.new_channel()
            await receiver.group_add(GROUP, name)

            async def read() -> None:
                while True:
                    received.append(await receiver.receive(name))
                    arrivals.append(perf_counter())

            reader = asyncio.create_task(read())
            await asyncio.sleep(0.1)  # until both are at work
            for message in sent:
                if len(accepted) + refused == messages // 3:
                    dying = asyncio.create_task(asyncio.to_thread(outage))
                try:
                    await sender.group_send(GROUP, message)
                except Exception:
                    refused += 1
                else:
                    accepted.append(message)
                await asyncio.sleep(0.002)
            returned = await dying
            for _ in range(100):  # what is still on its way has two seconds
                if reader.done() or received[-1:] == accepted[-1:]:
                    break
                await asyncio.sleep(0.02)
            died = reader.done()
            reader.cancel()
            await asyncio.wait([reader])
        right = sum(message in received for message in accepted)
        twice = sum(received.count(message) > 1 for message in sent)
        values: dict[str, float] = {
            "lost though sent": len(accepted) - right,
            "refused": refused,
            "readers that died": died,
            "s until back": min((arrival - returned for arrival in arrivals if arrival > returned), default=inf),
        }
        return Figures(values, Tally(len(accepted), right, twice))

    return asyncio.run(measure())


def catching_up(contender: Contender, *, missed: int, output: Callable[[], int]) -> Figures:
    """A channel comes back to a group, of which it has missed so many messages, until it has read the last of them.

    ``output`` says how many bytes the server has sent in all; its answer to that is not counted.
    """
    [sent] = script(1, missed)

    async def read(layer: Layer, name: str) -> list[Message]:
        return [await layer.receive(name) for _ in range(missed)]

    async def measure() -> Figures:
        async with contender.open() as opened:
            layer = cast(Any, opened)
            since = await layer.group_resume(GROUP, await layer.new_channel())
            for first in range(0, missed, WINDOW):
                await asyncio.gather(*(layer.group_send(GROUP, each) for each in sent[first : first + WINDOW]))
            name = await layer.new_channel()
            before = output()
            answer = output() - before
            before, began = output(), perf_counter()
            await layer.group_resume(GROUP, name, since=since)
            received = await asyncio.wait_for(read(layer, name), PATIENCE)
            seconds = perf_counter() - began
            values = {"ms": seconds * 1000, "bytes a message": (output() - before - answer) / missed}
            right = sum(map(Message.__eq__, received, sent))
            return Figures(values, Tally(missed, right, missed - right))

    return asyncio.run(measure())


# ---- from code without an event loop --------------------------------------------------------------------------------


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

    async def beat() -> None:
        while True:  # noqa: ASYNC110 - the turning itself is wanted, no event
            await asyncio.sleep(0.001)

    async def member() -> None:
        """Reads as many messages as it is asked for; 0 ends it."""
        name = await layer.new_channel()
        await layer.group_add(GROUP, name)
        heart = asyncio.create_task(beat())
        answers.put([])
        while count := await wanted.get():
            answers.put([await layer.receive(name) for _ in range(count)])
        heart.cancel()
        await contender.close(layer)

    def read(count: int) -> list[Message]:
        loop.call_soon_threadsafe(wanted.put_nowait, count)
        return answers.get(timeout=PATIENCE)

    def call(message: Message) -> None:
        async_to_sync(layer.group_send)(GROUP, message)

    if sync:
        call = partial(cast(Any, layer).group_send_sync, GROUP)
    life = asyncio.run_coroutine_threadsafe(member(), loop)
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
        life.result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    right = sum(map(Message.__eq__, received, messages))
    return Figures(values, Tally(calls, right, calls - right))
