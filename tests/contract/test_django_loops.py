"""`AnyioChannelLayer` over several event loops, threads and processes, and from synchronous code."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull, MessageTooLarge

from django_anyio_channels import AnyioChannelLayer, ListenerClosed

from .processes import END, TIME_LIMIT, Processes, n, numbers, rest, soon

# It is about the way of the payloads, not about what is in them.
pytestmark = [
    pytest.mark.encrypted_only,
    pytest.mark.measured_in_memory,
    pytest.mark.usefixtures("distinct_broker"),
]


def in_thread(function: Callable[[], Any]) -> Any:
    """The function's result from a thread of its own, which must end in time."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend([True, function()])
        except BaseException as error:  # raised again below
            outcome.extend([False, error])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIME_LIMIT)
    assert outcome, "the thread did not end"
    fine, result = outcome
    if not fine:
        raise result
    return result


class LoopThread:
    """An event loop that runs in a thread of its own, as a second server would."""

    def __enter__(self) -> LoopThread:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._started.wait(TIME_LIMIT)
        return self

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._started.set()
        await self._end.wait()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIME_LIMIT)

    def start(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(TIME_LIMIT)
        assert not self._thread.is_alive()


# ---- several event loops -----------------------------------------------------------------------------------------


def test_two_loops_in_two_threads_both_receive_on_one_layer(processes: Processes) -> None:
    layer = processes.new()
    with LoopThread() as one, LoopThread() as two:
        channels = [loop.run(layer.new_channel()) for loop in (one, two)]
        for loop, channel in zip((one, two), channels, strict=True):
            loop.run(layer.group_add("g", channel))
        readings = [loop.start(numbers(layer, channel, 5)) for loop, channel in zip((one, two), channels, strict=True)]
        one.run(layer.group_send("g", n(0)))
        two.run(layer.group_send("g", n(1)))
        one.run(layer.send(channels[1], n(2)))
        two.run(layer.send(channels[0], n(2)))
        layer.group_send_sync("g", n(3))
        async_to_sync(layer.group_send)("g", n(4))
        for reading in readings:
            assert sorted(reading.result(TIME_LIMIT)) == [0, 1, 2, 3, 4]
        assert layer.statistics()["nodes"] == 2
    assert layer.statistics()["nodes"] == 0


def test_group_add_for_a_channel_of_another_loop(processes: Processes) -> None:
    layer = processes.new()
    with LoopThread() as one, LoopThread() as two:
        channel = one.run(layer.new_channel())
        for number in range(5):
            two.run(layer.group_add("g", channel))
            two.run(layer.group_send("g", n(number)))
            assert one.run(numbers(layer, channel, 1)) == [number]
            two.run(layer.group_discard("g", channel))
            two.run(layer.group_send("g", n(-1)))
        assert one.run(rest(layer, channel)) == []
        layer.group_add_sync("g", channel)
        layer.group_send_sync("g", n(9))
        assert one.run(numbers(layer, channel, 1)) == [9]
        layer.group_discard_sync("g", channel)
        layer.group_send_sync("g", n(-1))
        layer.send_sync(channel, END)
        assert one.run(layer.receive(channel)) == END


def test_receiving_a_name_of_another_loop(processes: Processes) -> None:
    layer = processes.new()
    with LoopThread() as one, LoopThread() as two:
        channel = one.run(layer.new_channel())
        reading = two.start(layer.receive(channel))
        one.run(layer.send(channel, n(1)))
        assert reading.result(TIME_LIMIT) == n(1)

        async def poll() -> list[int]:
            received: list[int] = []
            while len(received) < 30:
                try:
                    received.append((await asyncio.wait_for(layer.receive(channel), 0.002))["n"])
                except TimeoutError:
                    continue
            return received

        polling = two.start(poll())
        for number in range(30):
            one.run(layer.send(channel, n(number)))
        assert polling.result(TIME_LIMIT) == list(range(30))


def test_a_normal_channel_between_loops(processes: Processes) -> None:
    layer = processes.new()
    with LoopThread() as one, LoopThread() as two:
        readings = [loop.start(numbers(layer, "jobs", 10)) for loop in (one, two)]
        for number in range(20):
            (one, two)[number % 2].run(layer.send("jobs", n(number)))
        found = [number for reading in readings for number in reading.result(TIME_LIMIT)]
        assert sorted(found) == list(range(20))


def test_one_loop_after_the_other(processes: Processes) -> None:
    layer = processes.new()

    async def session(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", n(number))
        assert await numbers(layer, channel, 1) == [number]
        await layer.send("kept", n(number))

    for number in range(10):
        asyncio.run(soon(session(number)))
        assert layer.statistics()["nodes"] == 0
    assert asyncio.run(numbers(layer, "kept", 10)) == list(range(10))


def test_a_layer_may_be_closed_and_used_again(processes: Processes) -> None:
    layer = processes.new()

    async def session() -> None:
        for number in range(3):
            channel = await layer.new_channel()
            await layer.group_add("g", channel)
            await layer.group_send("g", n(number))
            assert await numbers(layer, channel, 1) == [number]
            await layer.close()
            assert layer.statistics()["nodes"] == 0
        await layer.close()

    asyncio.run(soon(session()))
    layer.group_send_sync("g", n(1))


def test_a_loop_closed_without_cancelling_its_tasks(processes: Processes) -> None:
    """As `loop.run_until_complete` and `loop.close` by hand leave it."""
    layer = processes.new()
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(layer.new_channel())
    loop.run_until_complete(layer.group_add("g", channel))
    loop.run_until_complete(layer.group_send("g", n(1)))
    assert loop.run_until_complete(numbers(layer, channel, 1)) == [1]
    loop.run_until_complete(layer.close())
    loop.close()
    layer.group_send_sync("g", n(2))
    asyncio.run(soon(layer.group_send("g", n(3))))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the loop that was closed too early leaves its connections
def test_loops_that_do_not_run_are_not_asked(processes: Processes) -> None:
    layer = processes.new()
    paused, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    channels = [loop.run_until_complete(layer.new_channel()) for loop in (paused, closed)]
    paused.run_until_complete(layer.group_add("g", channels[0]))
    paused.run_until_complete(layer.send(channels[0], n(0)))
    closed.set_exception_handler(lambda loop, context: None)  # asyncio logs the tasks that are left
    closed.close()
    asyncio.run(soon(layer.flush()))
    layer.send_sync(channels[0], n(1))
    layer.group_send_sync("g", n(2))
    assert paused.run_until_complete(rest(layer, channels[0])) == [n(1)]

    paused.run_until_complete(layer.group_add("g", channels[0]))
    layer.group_discard_sync("g", channels[0])
    layer.group_send_sync("g", n(3))
    assert paused.run_until_complete(rest(layer, channels[0])) == []
    with pytest.raises(ListenerClosed, match="does not run"):
        layer.group_add_sync("g", channels[0])
    with pytest.raises(ValueError, match="does not run"):
        async_to_sync(layer.receive)(channels[0])
    layer.group_add_sync("g", channels[1])
    paused.run_until_complete(layer.close())
    paused.close()
    del closed
    gc.collect()


# ---- synchronous code --------------------------------------------------------------------------------------------


def test_sync_code_without_any_loop(processes: Processes) -> None:
    layer = processes.new(capacity=2, max_message_size=1000)
    layer.group_add_sync("g", "normal")
    layer.group_send_sync("g", n(1))
    layer.send_sync("normal", n(2))
    with pytest.raises(ChannelFull):
        layer.send_sync("normal", n(3))
    layer.group_send_sync("g", n(4))
    with pytest.raises(MessageTooLarge):
        layer.send_sync("normal", {"type": "x", "b": b"x" * 1000})
    with pytest.raises(MessageTooLarge):
        layer.group_send_sync("g", {"type": "x", "b": b"x" * 1000})
    with pytest.raises(TypeError, match="cannot be sent"):
        layer.send_sync("normal", {"type": "x", "set": {1}})
    with pytest.raises(TypeError, match="cannot be sent"):
        layer.group_send_sync("g", {"type": "x", "set": {1}})
    layer.group_discard_sync("g", "normal")
    assert async_to_sync(numbers)(layer, "normal", 2) == [1, 2]
    layer.group_send_sync("g", n(5))
    layer.send_sync("normal", END)
    assert async_to_sync(layer.receive)("normal") == END


def test_async_to_sync_without_any_loop(processes: Processes) -> None:
    """Every call has an event loop of its own; the names live on."""
    layer = processes.new()
    first, second = async_to_sync(layer.new_channel)(), async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("g", first)
    async_to_sync(layer.send)(first, n(1))
    async_to_sync(layer.send)(second, n(2))
    async_to_sync(layer.group_send)("g", n(3))
    assert async_to_sync(layer.receive)(second) == n(2)
    assert async_to_sync(layer.receive)(first) == n(1)
    assert async_to_sync(layer.receive)(first) == n(3)
    async_to_sync(layer.group_discard)("g", first)
    async_to_sync(layer.flush)()
    assert layer.statistics()["nodes"] <= 1
    async_to_sync(layer.close)()


@pytest.mark.anyio
async def test_sync_calls_in_a_thread_of_an_async_program(processes: Processes) -> None:
    """As a view of a server does it: `sync_to_async` outside, `async_to_sync` or a sync method inside."""
    layer = processes.new()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)

    def view() -> None:
        async_to_sync(layer.group_send)("g", n(1))
        layer.group_send_sync("g", n(2))
        async_to_sync(layer.send)(channel, n(3))
        layer.send_sync(channel, n(4))

    for wrap in (sync_to_async(view), sync_to_async(view, thread_sensitive=False)):
        await soon(wrap())
        assert sorted(await numbers(layer, channel, 4)) == [1, 2, 3, 4]
    await asyncio.get_running_loop().run_in_executor(None, view)
    assert sorted(await numbers(layer, channel, 4)) == [1, 2, 3, 4]
    assert layer.statistics()["nodes"] <= 2


@pytest.mark.anyio
async def test_group_calls_in_a_thread_of_an_async_program(processes: Processes) -> None:
    layer = processes.new()
    channel = await layer.new_channel()
    await soon(sync_to_async(layer.group_add_sync)("g", channel))
    await layer.group_send("g", n(1))
    assert await rest(layer, channel) == [n(1)]
    await soon(sync_to_async(layer.group_discard_sync)("g", channel))
    await layer.group_send("g", n(2))
    assert await rest(layer, channel) == []


@pytest.mark.anyio
async def test_sync_methods_on_the_loops_own_thread(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what one should do, but it must not stand still for ever."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    layer = processes.new()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    layer.group_send_sync("g", n(1))
    layer.send_sync(channel, n(2))
    layer.send_sync("normal", n(3))
    assert sorted(await numbers(layer, channel, 2)) == [1, 2]
    assert await numbers(layer, "normal", 1) == [3]


@pytest.mark.anyio
async def test_group_add_sync_on_the_loops_own_thread(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    layer = processes.new(publish_timeout=20.0)
    layer.group_add_sync("g", "normal")
    await layer.group_send("g", n(1))
    assert await numbers(layer, "normal", 1) == [1]
    layer.group_discard_sync("g", "normal")
    await layer.group_send("g", n(2))
    assert await rest(layer, "normal") == []


def test_many_threads_at_once(processes: Processes) -> None:
    layer = processes.new(capacity=10_000)
    with LoopThread() as server:
        channel = server.run(layer.new_channel())
        server.run(layer.group_add("g", channel))

        def work(number: int) -> None:
            for count in range(20):
                message = {"type": "x", "from": number, "count": count}
                if number % 4 == 0:
                    layer.group_send_sync("g", message)
                elif number % 4 == 1:
                    async_to_sync(layer.group_send)("g", message)
                elif number % 4 == 2:
                    asyncio.run(layer.send(channel, message))
                else:
                    layer.send_sync(channel, message)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))

        async def everything() -> list[dict[str, Any]]:
            return [await soon(layer.receive(channel)) for _ in range(16 * 20)]

        received = server.run(everything())
        for number in range(16):
            assert [message["count"] for message in received if message["from"] == number] == list(range(20))
        assert server.run(rest(layer, channel)) == []


def test_many_threads_each_with_its_own_loop_and_reader(processes: Processes) -> None:
    layer = processes.new()
    together = threading.Barrier(8)

    def work(number: int) -> list[int]:
        async def main() -> list[int]:
            channel = await layer.new_channel()
            await layer.group_add("g", channel)
            await asyncio.get_running_loop().run_in_executor(None, together.wait, TIME_LIMIT)
            await layer.group_send("g", n(number))
            return sorted(await numbers(layer, channel, 8))

        return asyncio.run(soon(main()))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [list(range(8))] * 8
    assert layer.statistics()["nodes"] == 0


# ---- forks -------------------------------------------------------------------------------------------------------


def in_child(function: Callable[[], None]) -> None:
    """Run it in a forked child; its error is this process's error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, said


def converse(layer: AnyioChannelLayer) -> None:
    async def main() -> None:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", n(1))
        await layer.send(channel, n(2))
        assert sorted(await numbers(layer, channel, 2)) == [1, 2]

    asyncio.run(soon(main()))
    layer.group_send_sync("g", n(3))
    async_to_sync(layer.group_send)("g", n(4))
    layer.group_add_sync("h", "normal-of-child")
    layer.group_send_sync("h", n(5))
    assert async_to_sync(layer.receive)("normal-of-child") == n(5)
    layer.group_discard_sync("h", "normal-of-child")


def test_use_before_and_after_a_fork(processes: Processes) -> None:
    layer = processes.new()
    converse(layer)
    in_child(lambda: converse(layer))
    converse(layer)
    in_child(lambda: in_child(lambda: converse(layer)))


def test_first_use_after_a_fork(processes: Processes) -> None:
    layer = processes.new()
    in_child(lambda: converse(layer))
    converse(layer)


def test_names_of_the_parent_are_not_the_childs(processes: Processes) -> None:
    layer = processes.new()
    with LoopThread() as server:
        channel = server.run(layer.new_channel())
        server.run(layer.group_add("g", channel))

        def child() -> None:
            assert layer.statistics()["channels"] == 0
            name = asyncio.run(layer.new_channel())
            assert name[: name.index("!")] != channel[: channel.index("!")]

        in_child(child)
        server.run(layer.group_send("g", n(1)))
        assert server.run(numbers(layer, channel, 1)) == [1]
