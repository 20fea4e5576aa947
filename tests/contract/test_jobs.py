"""Acknowledged channels over every broker that redelivers: what a reader gets, and when it gets the next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import anyio
import pytest
from anyio.to_thread import run_sync
from channels.exceptions import ChannelFull

from django_anyio_channels import AnyioChannelLayer, ListenerClosed

from .helpers import Unique
from .kinds import HistoryBroker

pytestmark = pytest.mark.anyio

SHORT = 0.8
"""Seconds after which what is not acknowledged comes again, in tests that wait for it."""
TIME_LIMIT = 30.0

NewLayer = Callable[..., AnyioChannelLayer]


@pytest.fixture
async def new_layer(django_history_broker: HistoryBroker, unique: Unique) -> AsyncIterator[NewLayer]:
    """Makes layers of one prefix, each as in a process of its own, with such options."""
    made: list[AnyioChannelLayer] = []
    prefix = unique("t")

    def new(**options: Any) -> AnyioChannelLayer:
        keys = {"capacity", "expiry", "symmetric_encryption_keys"} & options.keys()
        settings = {key: options.pop(key) for key in keys}
        config = {**django_history_broker.config(**options), "prefix": prefix, "acknowledged": ["jobs*"], **settings}
        made.append(AnyioChannelLayer(**config))
        return made[-1]

    yield new
    for layer in made:
        await layer.close()


def job(number: int) -> dict[str, Any]:
    return {"type": "job.do", "number": number}


async def next_of(layer: AnyioChannelLayer, channel: str = "jobs") -> Any:
    """The next message, received by a task of its own: nothing before it holds it up."""
    return await asyncio.wait_for(asyncio.ensure_future(layer.receive(channel)), TIME_LIMIT)


async def becomes_true(condition: Callable[[], object]) -> None:
    with anyio.fail_after(TIME_LIMIT):
        while not condition():
            await anyio.sleep(0.01)


# ---- readers -----------------------------------------------------------------------------------------------------


async def test_what_is_acknowledged_does_not_come_again(new_layer: NewLayer) -> None:
    sender, reader = new_layer(), new_layer(redeliver_after=SHORT)
    for number in range(2):
        await sender.send("jobs", job(number))
    first, second = await next_of(reader), await next_of(reader)
    assert (first, second) == (job(0), job(1))
    assert (first.deliveries, second.deliveries) == (1, 1)
    await reader.ack(first)
    await reader.ack(first)
    again = await next_of(reader)
    assert (again, again.deliveries) == (job(1), 2)
    await reader.ack(again)
    await sender.send("jobs", job(2))
    assert await next_of(reader) == job(2)


async def test_encrypted_jobs_come_again_and_become_dead_letters(new_layer: NewLayer) -> None:
    options = {"redeliver_after": SHORT, "deliver_at_most": 2, "symmetric_encryption_keys": ["a key of this test"]}
    sender, reader = new_layer(**options), new_layer(**options)
    member = await sender.new_channel()
    await sender.group_add("jobs.dead", member)
    await sender.send("jobs", job(0))
    assert [(await next_of(reader)).deliveries for _ in range(2)] == [1, 2]
    reading = asyncio.ensure_future(next_of(reader))
    letter = await asyncio.wait_for(sender.receive(member), TIME_LIMIT)
    await sender.send("jobs", job(1))
    assert await reading == job(1)
    [kept] = await reader.group_history("jobs.dead")
    assert letter == kept.message == job(0)
    channel = await reader.new_channel()
    assert await reader.group_resume("jobs.dead", channel, last=1) is None
    assert await asyncio.wait_for(reader.receive(channel), TIME_LIMIT) == job(0)


async def test_a_task_gets_the_next_when_it_has_acknowledged(new_layer: NewLayer) -> None:
    layer = new_layer()
    for number in range(3):
        await layer.send("jobs", job(number))
    held = await layer.receive("jobs")
    received: list[int] = []

    async def receive_two() -> None:
        mine = await layer.receive("jobs")
        received.append(mine["number"])
        mine = await layer.receive("jobs")
        received.append(mine["number"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive_two)
        await becomes_true(lambda: received)
        last = await next_of(new_layer())
        assert (last, received) == (job(2), [1]), "others need not wait for these tasks"
        tasks.cancel_scope.cancel()
    await layer.ack(held)
    await layer.send("jobs", job(3))
    assert (await layer.receive("jobs"))["number"] == 3


async def test_a_task_that_never_acknowledges_goes_on_after_a_while(
    new_layer: NewLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = new_layer(redeliver_after=SHORT)
    await layer.send("jobs", job(1))
    with anyio.fail_after(TIME_LIMIT):
        assert await layer.receive("jobs") == job(1)
        again = await layer.receive("jobs")
    assert (again, cast(Any, again).deliveries) == (job(1), 2)
    assert "jobs was not acknowledged within 0.8 s (redeliver_after), and goes to another reader" in caplog.text


async def test_polling_loses_nothing(new_layer: NewLayer) -> None:
    sender, layer = new_layer(), new_layer()
    got: list[int] = []
    chance = random.Random(1)

    async def send() -> None:
        for number in range(100):
            await sender.send("jobs", job(number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.fail_after(TIME_LIMIT):
            while len(got) < 100:
                try:
                    message = await asyncio.wait_for(layer.receive("jobs"), chance.choice([0, 0.001, 0.005]))
                except TimeoutError:
                    continue
                got.append(message["number"])
                await layer.ack(message)
    assert got == list(range(100))


async def test_other_channels_and_layers_need_no_acknowledgement(new_layer: NewLayer) -> None:
    for layer in (new_layer(), AnyioChannelLayer()):
        for channel in ("mail", await layer.new_channel()):
            await layer.send(channel, job(1))
            message = await next_of(layer, channel)
            assert type(message) is dict
            await layer.ack(message)
            await layer.ack(message)
        await layer.close()


async def test_capacity_expiry_groups_and_flush(new_layer: NewLayer) -> None:
    layer = new_layer(capacity=2, expiry=2.0, redeliver_after=SHORT)
    await layer.group_add("everybody", "jobs")
    await layer.group_send("everybody", job(0))
    await layer.send("jobs", job(1))
    with pytest.raises(ChannelFull, match="capacity 2"):
        await layer.send("jobs", job(2))
    taken = await next_of(layer)
    assert taken == job(0)
    await layer.send("jobs", job(3))
    await anyio.sleep(2.1)
    again = await next_of(layer)
    assert (again, again.deliveries) == (job(0), 2), "what was read does not expire; what was not, did"
    await layer.flush()
    await layer.send("jobs", job(4))
    assert await next_of(layer) == job(4)


async def test_what_a_layer_has_pending_goes_to_others_when_it_closes(new_layer: NewLayer) -> None:
    leaving, other = new_layer(), new_layer()
    await leaving.send("jobs", job(1))
    assert await next_of(leaving) == job(1)
    await leaving.close()
    again = await next_of(other)
    assert (again, again.deliveries) == (job(1), 2)


async def test_what_cannot_be_decoded_is_no_job(new_layer: NewLayer, caplog: pytest.LogCaptureFixture) -> None:
    layer = new_layer()
    node = await layer._dispatcher._nodes.get_or_open()
    await node.channel.queues.put(layer._names.queue("jobs"), b"\xc1", capacity=1, expiry=60.0)
    await layer.send("jobs", job(1))
    message = await next_of(layer)
    assert message == job(1)
    await layer.ack(message)
    assert "Dropped a message for jobs" in caplog.text


# ---- other threads and loops -------------------------------------------------------------------------------------


async def test_a_loop_that_has_ended_has_released_them(new_layer: NewLayer) -> None:
    layer = new_layer()

    async def take() -> Any:
        await layer.send("jobs", job(1))
        return await layer.receive("jobs")

    message = await run_sync(lambda: asyncio.run(take()))
    with pytest.raises(ListenerClosed, match=r"has ended, it returned it to the other readers"):
        await layer.ack(message)
    again = await next_of(layer)
    assert (again, again.deliveries) == (job(1), 2)
    await layer.ack(again)


async def test_a_job_for_a_caller_who_has_gone_is_put_again(new_layer: NewLayer) -> None:
    layer = new_layer()
    await layer.send("jobs", job(1))
    node = await layer._dispatcher._nodes.get_or_open()
    node.put_back("jobs", await next_of(layer))
    node.put_back("mail", job(2))
    again = await next_of(layer)
    assert (again, again.deliveries) == (job(1), 1)
    assert await next_of(layer, "mail") == job(2)
