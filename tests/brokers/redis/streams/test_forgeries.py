"""What somebody else writes where histories and acknowledged work keep their books: it ends nothing and nobody."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import anyio
import pytest

from django_anyio_channels import Channel, PositionLost, RedisStreamsChannelLayer, Subscriber
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio

POSITION, HISTORY, CURSOR = "{g}|position", "{g}|history", "{g}|cursor of w"
LATE = "0123abcd-1700000000000"
Commands = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[brokers.Redis]:
    """Valkey only: the scripts are the same."""
    made = brokers.plain("valkey")
    with brokers.running(made):
        yield made


def open_channel(server: brokers.Redis, **options: Any) -> Channel:
    url = brokers.with_streams(server.url)
    return Channel(RedisStreamsChannelLayer(url, probe_interval=1.0, redeliver_after=0.2), **options)


def forge(server: brokers.Redis, commands: Commands) -> None:
    with server.client() as raw:
        for command in commands:
            raw.execute_command(*command)


async def received(subscriber: Subscriber, count: int) -> list[Any]:
    with anyio.fail_after(30):
        return [(await anext(subscriber)).message for _ in range(count)]


# ---- histories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([("SET", HISTORY, "a string")], id="another type"),
        pytest.param([("XADD", HISTORY, "9999999999999-9", "", "x")], id="an entry of the future"),
        pytest.param([("XADD", HISTORY, f"{2**64 - 1}-{2**64 - 1}", "", "x")], id="the last entry of all"),
        pytest.param([("XADD", HISTORY, "*", "several", "fields", "of", "others")], id="an entry of others"),
        pytest.param([("SET", POSITION, "where?")], id="no position"),
        pytest.param([("DEL", POSITION), ("RPUSH", POSITION, LATE)], id="no text"),
        pytest.param([("SET", POSITION, f"{LATE}-{2**64 - 1}")], id="the last number of all"),
        pytest.param([("SET", POSITION, f"0123abcd-{10**16 - 1}-5")], id="no time"),
        pytest.param([("SET", POSITION, f"0123abcd-{10**30}-5")], id="beyond time"),
    ],
)
async def test_who_listens_hears_what_is_published_after_a_forgery(server: brokers.Redis, commands: Commands) -> None:
    async with open_channel(server) as publisher, open_channel(server) as reader, reader.subscribe("g") as subscriber:
        await publisher.publish("g", 0)
        forge(server, commands)
        for number in (1, 2, 3):
            await publisher.publish("g", number)
        assert await received(subscriber, 4) == [0, 1, 2, 3]
        assert [event.message for event in await reader.history("g")][-3:] == [1, 2, 3]


async def test_a_history_of_another_type_is_an_empty_one(server: brokers.Redis) -> None:
    async with open_channel(server) as channel:
        accepted: Any = await channel.publish("g", 0)
        await channel.publish("g", 1)
        for since in (None, accepted.position):
            forge(server, [("SET", HISTORY, "a string")])
            if since is None:
                assert await channel.history("g") == []
            else:
                with pytest.raises(PositionLost, match="history of g does not reach back"):
                    await channel.history("g", since=since)


async def test_who_comes_back_to_a_history_of_another_type_hears_what_comes(server: brokers.Redis) -> None:
    missed: list[str] = []
    async with (
        open_channel(server) as publisher,
        open_channel(server, on_missed=lambda group, seconds: missed.append(group)) as reader,
        reader.subscribe("g") as subscriber,
    ):
        await publisher.publish("g", 0)
        assert await received(subscriber, 1) == [0]
        # As if another one had published meanwhile, and a third written over it.
        position = server.ask("GET", POSITION)
        epoch, milliseconds, _ = position.split("-")
        forge(server, [("SET", POSITION, f"{epoch}-{milliseconds}-7"), ("SET", HISTORY, "a string")])
        with server.client() as admin:
            brokers.cut_off(admin)
        await becomes_true(lambda: missed == ["g"])
        await publisher.publish("g", 1)
        assert await received(subscriber, 1) == [1]


async def test_who_comes_back_while_memory_is_used_up_hears_what_comes(own_server: brokers.Redis) -> None:
    async with (
        open_channel(own_server) as publisher,
        open_channel(own_server) as reader,
        reader.subscribe("g") as subscriber,
        reader.subscribe("jobs", consumer_group="w") as worker,
    ):
        for group in ("g", "jobs"):
            await publisher.publish(group, 0)
        assert await received(subscriber, 1) == await received(worker, 1) == [0]
        await publisher.publish("jobs", 1)
        with own_server.client() as admin:
            admin.config_set("maxmemory", "1")
            brokers.cut_off(admin)
            await becomes_true(lambda: reader.outages and publisher.outages)
            await reader.connected()
            assert await received(worker, 1) == [1]
            async with reader.subscribe("new") as other:
                admin.config_set("maxmemory", "0")
                for group in ("g", "new"):
                    await publisher.publish(group, 2)
                assert await received(subscriber, 1) == await received(other, 1) == [2]


# ---- frames ----------------------------------------------------------------------------------------------------------


def frame(position: str, previous_id: str) -> bytes:
    return f"{position} {previous_id}\n".encode() + b"\xa6forged"


def garbage(random: Random, last: str, genuine: list[bytes]) -> bytes:
    """A frame as a hostile client may publish it, or a damaged or late copy of one."""
    epoch, milliseconds, number = last.split("-")
    last_id, ahead = f"{milliseconds}-{number}", random.choice([0, 1, 5_000, 10**12])
    future = f"{int(milliseconds) + ahead}-{10**6 + random.randrange(10)}"
    copy = random.choice(genuine)
    return random.choice(
        [
            frame(f"{epoch}-{future}", last_id),
            frame(f"{epoch}-{future}", "1700000000000-0"),
            frame(f"{epoch}-{'9' * 20}-{'9' * 20}", last_id),
            frame(f"{epoch}-{milliseconds}-{'9' * 20}", last_id),
            frame(f"ffffffff-{future}", "0-0"),
            frame(f"ffffffff-{future}", last_id),
            frame("00000000-0-0", "0-0"),
            copy,
            copy[: random.randrange(len(copy))],
            random.randbytes(random.randrange(60)),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_makes_no_group_deaf(server: brokers.Redis, seed: int) -> None:
    random, numbers, missed = Random(seed), range(60), list[str]()
    got: list[Any] = []
    async with (
        open_channel(server) as publisher,
        open_channel(server, capacity=10_000, on_missed=lambda group, seconds: missed.append(group)) as reader,
        reader.subscribe("g") as subscriber,
        anyio.create_task_group() as tasks,
    ):

        async def read() -> None:
            async for event in subscriber:
                got.append(event.message)

        tasks.start_soon(read)
        genuine: list[bytes] = []
        with server.client() as raw:
            for number in numbers:
                for _ in range(random.randrange(4) if genuine else 0):
                    raw.publish("g", garbage(random, server.ask("GET", POSITION), genuine))
                position = (await publisher.publish("g", number)).position
                genuine.append(frame(str(position), "1700000000000-0"))
        # What the last frames have spoiled may take one more with it, which is reported.
        await becomes_true(lambda: numbers[-1] in got or missed)
        await publisher.publish("g", "end")
        await becomes_true(lambda: "end" in got)
        assert reader.outages == 0
        tasks.cancel_scope.cancel()
    found = [message for message in got if isinstance(message, int)]
    assert found == sorted(set(found)), "each once, in order"
    assert missed or found == list(numbers), "none is missed in silence"


@pytest.mark.parametrize("ahead", [1, 10**12])
async def test_after_a_forged_frame_no_message_is_missed(
    server: brokers.Redis, ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    missed: list[str] = []
    async with (
        open_channel(server) as publisher,
        open_channel(server, on_missed=lambda group, seconds: missed.append(group)) as reader,
        reader.subscribe("g") as subscriber,
    ):
        await publisher.publish("g", 0)
        epoch, milliseconds, number = server.ask("GET", POSITION).split("-")
        with server.client() as raw:
            raw.publish("g", frame(f"{epoch}-{int(milliseconds) + ahead}-7", f"{milliseconds}-{number}"))
        for number in (1, 2, 3):
            await publisher.publish("g", number)
        assert [each for each in await received(subscriber, 5) if each != "forged"] == [0, 1, 2, 3]
        assert missed == []
        await becomes_true(lambda: "The history of g lacks live messages (1)" in caplog.text)


async def test_a_name_that_is_merely_joined_takes_no_memory(server: brokers.Redis) -> None:
    async with open_channel(server) as channel:
        async with channel.subscribe(*(f"user.{number}" for number in range(20))) as subscriber:
            assert server.ask("KEYS", "*user*") == []
            await channel.publish("user.7", 1)
            assert await received(subscriber, 1) == [1]
        assert set(server.ask("KEYS", "*user*")) == {"{user.7}|position", "{user.7}|history"}
        kept = server.ask("KEYS", "*")
        assert any(key.endswith("memory") for key in kept)
        assert all(server.ask("PTTL", key) > 0 for key in kept), "nothing stays for ever"


# ---- acknowledged work -----------------------------------------------------------------------------------------------


def books(pending: str) -> list[Any]:
    """Forgeries of what is pending."""
    return [
        pytest.param([("DEL", pending), ("SET", pending, "a string")], id="times of another type"),
        pytest.param(
            [("DEL", f"{pending}, contents"), ("SET", f"{pending}, contents", "a string")],
            id="contents of another type",
        ),
        pytest.param([("ZADD", pending, 0, "unknown", "inf", "never")], id="times of nothing"),
        pytest.param([("DEL", f"{pending}, contents")], id="no contents"),
        pytest.param(
            [
                ("ZADD", pending, 0, "forged"),
                ("HSET", f"{pending}, contents", "#forged", "how often?", "forged", "\x01"),
            ],
            id="a count that is none",
        ),
    ]


def answer_boxes(server: brokers.Redis) -> Commands:
    """Write something else over what nodes were answered last."""
    return [
        command
        for key in server.ask("KEYS", "*pending*, in flight to *")
        for command in (("DEL", key), ("SET", key, "x"))
    ]


@pytest.mark.parametrize("commands", [*books("{q}|pending"), pytest.param([("SET", "q", "x")], id="another type")])
async def test_jobs_go_on_after_a_forgery(server: brokers.Redis, commands: Commands) -> None:
    async with open_channel(server) as channel:
        got: list[bytes] = []
        for number in range(3):
            await channel.queues.put("q", b"%d" % number, capacity=10, expiry=60)
            if number < 2:
                event = await channel.queues.receive_job("q", "dead")
                got.append(event.message)
                if number == 1:  # with one pending
                    forge(server, [*commands, *answer_boxes(server)])
                await event.ack()
        with anyio.fail_after(30):
            while b"2" not in got:
                event = await channel.queues.receive_job("q", "dead")
                got.append(event.message)
                await event.ack()
        assert [message for message in got if message != b"\x01"] == [b"0", b"1", b"2"]
        await becomes_true(lambda: server.ask("ZCOUNT", "{q}|pending", "-inf", "(inf") == 0)


@pytest.mark.parametrize(
    "commands",
    [
        *books("{g}|pending of w"),
        pytest.param([("XADD", HISTORY, "*", "several", "fields", "of", "others")], id="an entry of others"),
        pytest.param([("XADD", HISTORY, "*", "", "x y\nz")], id="an entry with another's position"),
        pytest.param([("DEL", CURSOR), ("RPUSH", CURSOR, "x")], id="another type"),
        pytest.param([("APPEND", CURSOR, "?")], id="no position"),
        pytest.param([("SETRANGE", CURSOR, 9, "9" * 20 + "-1")], id="beyond time"),
    ],
)
async def test_a_consumer_group_goes_on_after_a_forgery(server: brokers.Redis, commands: Commands) -> None:
    async with open_channel(server) as channel, channel.subscribe("g", consumer_group="w", ack="manual") as consumer:
        got: list[int] = []
        for number in range(4):
            await channel.publish("g", number)
            while number not in got:
                with anyio.fail_after(30):
                    event = await anext(consumer)
                if event.message not in got:  # what was done may come again
                    got.append(event.message)
                await event.ack()
            if number == 1:
                forge(server, [*commands, *answer_boxes(server)])
        assert got == [0, 1, 2, 3]
