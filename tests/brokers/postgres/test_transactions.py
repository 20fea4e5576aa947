"""Messages sent in Django's transactions are delivered exactly if and when these commit.

`test_psycopg2` runs what a driver can spoil once more, over the other one and on an older server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import time
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull, MessageTooLarge
from django.apps import apps
from django.db import OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.db.utils import ConnectionHandler

from django_anyio_channels import AnyioChannelLayer, NotSupported
from django_anyio_channels.brokers.postgres.payloads import MAX_PAYLOAD
from tests.contract.processes import n, numbers, receive, rest, soon, until
from tests.support.brokers import postgres as brokers
from tests.support.brokers.postgres import PASSWORD, USER, Postgres
from tests.support.brokers.server import running
from tests.support.paths import ROOT

from .project.environment import environment

pytestmark = pytest.mark.anyio

T = TypeVar("T")
DRIVER = os.environ.get("DRIVER", "psycopg")


def entry_of(database: Postgres, **options: Any) -> dict[str, Any]:
    entry = {**database.entry, "OPTIONS": options}
    return ConnectionHandler({"default": entry}).settings["default"]  # type: ignore[no-any-return]


async def in_thread(call: Callable[[], T]) -> T:
    """Run what a synchronous view would do, in the thread where the asynchronous code's transactions are too."""
    return await soon(sync_to_async(call, thread_sensitive=True)())


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One server, newest or older, for the tests of this file that leave it running."""
    made = brokers.plain(older=DRIVER == "psycopg2")
    with running(made.server):
        yield made


@pytest.fixture
async def django(database: Postgres, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postgres]:
    """DATABASES has the aliases default and other for one database, and elsewhere for another one."""
    monkeypatch.setattr(apps, "ready", True)  # Django warns of whoever uses the database too early
    monkeypatch.setitem(connections.settings, "default", entry_of(database))
    monkeypatch.setitem(connections.settings, "other", entry_of(database))
    monkeypatch.setitem(
        connections.settings, "elsewhere", entry_of(Postgres(database.server, database.programs, "postgres"))
    )
    yield database

    def forget() -> None:
        for alias in ("default", "other", "elsewhere"):
            if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
                connections[alias].close()
                del connections[alias]

    await in_thread(forget)


@pytest.fixture(params=[0, 1000], ids=["plain", "history"])
def limits(request: pytest.FixtureRequest) -> dict[str, int]:
    """Options of the layer."""
    return {"history_length": request.param}


@pytest.fixture
async def layer(django: Postgres, limits: dict[str, int]) -> AsyncIterator[AnyioChannelLayer]:
    made = AnyioChannelLayer(database="default", options=limits, symmetric_encryption_keys=["a key for the tests"])
    yield made
    await made.close()


@pytest.fixture
async def member(layer: AnyioChannelLayer) -> str:
    """A channel in the group ``room``."""
    channel = await soon(layer.new_channel())
    await soon(layer.group_add("room", channel))
    return channel


class Oops(Exception):
    """Ends a transaction."""


async def test_commit_delivers_and_not_before(layer: AnyioChannelLayer, member: str) -> None:
    def begin() -> None:
        transaction.set_autocommit(False)
        layer.in_transaction().group_send_sync("room", n(1))
        layer.in_transaction().send_sync(member, n(2))
        layer.in_transaction().send_sync("a-queue", n(3))

    def commit() -> None:
        transaction.commit()
        transaction.set_autocommit(True)

    await in_thread(begin)
    await layer.group_send("room", n(0))  # whatever was sent before has arrived when this has
    assert await receive(layer, member, 1) == [n(0)]
    assert await rest(layer, member) == []
    reader = asyncio.ensure_future(layer.receive("a-queue"))
    await layer.send("a-queue", n(0))
    assert await soon(reader) == n(0)
    await in_thread(commit)
    assert await numbers(layer, member, 2) == [1, 2]
    assert await soon(layer.receive("a-queue")) == n(3)


async def test_a_transaction_may_last_longer_than_a_message(
    layer: AnyioChannelLayer, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encrypted message has a time, which is that of the call."""

    def send() -> None:
        an_hour_ago = time() - 3600
        with monkeypatch.context() as patch, transaction.atomic():
            patch.setattr("django_anyio_channels.core.encryption.time", lambda: an_hour_ago)
            layer.in_transaction().group_send_sync("room", n(1))
            layer.in_transaction().send_sync("a-queue", n(2))

    await in_thread(send)
    assert await numbers(layer, member, 1) == [1]
    assert await soon(layer.receive("a-queue")) == n(2)


async def test_a_row_and_the_news_of_it(layer: AnyioChannelLayer, member: str) -> None:
    """A consumer that is told of a row by a message can read the row."""

    def post() -> None:
        with transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute("CREATE TABLE line (id int)")
            cursor.execute("INSERT INTO line VALUES (7)")
            layer.in_transaction().group_send_sync("room", {"type": "line", "id": 7})

    def read() -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT id FROM line")
            return cursor.fetchall()

    await in_thread(post)
    [message] = await receive(layer, member, 1)
    assert await in_thread(read) == [(message["id"],)]


async def test_rollback_delivers_nothing(layer: AnyioChannelLayer, member: str) -> None:
    def fail() -> None:
        with pytest.raises(Oops), transaction.atomic():
            news = layer.in_transaction()
            for _ in range(2):
                news.group_send_sync("room", n(1))
                news.send_sync(member, n(2))
                news.send_sync("a-queue", n(3))
            raise Oops

    await in_thread(fail)
    assert await rest(layer, member) == []
    assert await rest(layer, "a-queue") == []


async def test_a_row_its_event_and_its_place_in_the_history_are_one(django: Postgres) -> None:
    layer = AnyioChannelLayer(database="default", options={"history_length": 100})
    django.ask("CREATE TABLE line (id int)")
    channel = await soon(layer.new_channel())
    since = await soon(layer.group_resume("room", channel))

    def post(number: int, *, then: type[Exception] | None) -> None:
        with transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO line VALUES (%s)", [number])
            layer.in_transaction().group_send_sync("room", n(number))
            if then is not None:
                raise then

    def rows() -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT id FROM line")
            return [number for (number,) in cursor.fetchall()]

    await in_thread(lambda: post(1, then=None))
    with pytest.raises(Oops):
        await in_thread(lambda: post(2, then=Oops))
    await in_thread(lambda: post(3, then=None))
    live = await numbers(layer, channel, 2)
    history = [event.message["n"] for event in await soon(layer.group_history("room", since=since))]
    assert live == history == await in_thread(rows) == [1, 3]
    await layer.close()


async def test_an_acknowledged_job_of_a_transaction_outlives_a_crash(
    own_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "ready", True)
    monkeypatch.setitem(connections.settings, "crashing", entry_of(own_server))
    layer = AnyioChannelLayer(
        database="crashing", acknowledged=["jobs"], capacity=3, options={"redeliver_after": 1.0, "deliver_at_most": 2}
    )

    def send() -> None:
        news = layer.in_transaction()
        with pytest.raises(Oops), transaction.atomic(using="crashing"):
            news.send_sync("jobs", n(0))
            raise Oops
        with transaction.atomic(using="crashing"):
            news.send_sync("jobs", n(1))
            news.send_sync("jobs", n(2))
        connections["crashing"].close()
        del connections["crashing"]

    await in_thread(send)
    await soon(layer.send("jobs", n(3)))
    with pytest.raises(ChannelFull):
        await soon(layer.send("jobs", n(4)))
    await in_thread(own_server.server.restart)
    done: list[int] = []
    while len(done) < 3:
        message: Any = await soon(layer.receive("jobs"))
        if len(done) == 1 and message.deliveries == 1:
            continue  # it comes again
        await soon(layer.ack(message))
        done.append(message["n"])
    assert sorted(done) == [1, 2, 3]
    await layer.close()


async def test_several_groups_all_but_some_and_frames_are_one_commit(
    layer: AnyioChannelLayer, member: str, limits: dict[str, int]
) -> None:
    other = await soon(layer.new_channel())
    for group in ("room", "hall"):
        await soon(layer.group_add(group, other))
        await soon(layer.group_add(group, "a-queue"))

    def send(*, then: type[Exception] | None) -> None:
        with transaction.atomic():
            news = layer.in_transaction()
            news.group_send_sync(["room", "hall"], n(1))
            news.group_send_sync("room", n(2), exclude=member)
            news.group_send_sync(["hall", "room"], n(3), exclude=[other, "a-queue"])
            news.broadcast_sync("room", json={"n": 4})
            news.broadcast_sync(["room", "hall"], text="5", exclude="a-queue")
            if then is not None:
                raise then

    def seen(messages: list[Any]) -> list[Any]:
        return [message.get("n") or message["text"] for message in messages]

    with pytest.raises(Oops):
        await in_thread(lambda: send(then=Oops))
    for channel in (member, other, "a-queue"):
        assert await rest(layer, channel) == []
    await in_thread(lambda: send(then=None))
    assert seen(await rest(layer, member)) == [1, 3, '{"n": 4}', "5"]
    assert seen(await rest(layer, other)) == [1, 2, '{"n": 4}', "5"]
    assert seen(await rest(layer, "a-queue")) == [1, 2, '{"n": 4}']
    if limits["history_length"]:
        lengths = [len(await soon(layer.group_history(group))) for group in ("room", "hall")]
        assert lengths == [5, 3], "what was rolled back is in no history"


async def test_tables_of_jobs_are_made_for_an_acknowledged_queue_in_a_group(django: Postgres) -> None:
    layer = AnyioChannelLayer(database="default", acknowledged=["jobs"])
    await soon(layer.group_add("room", "jobs"))
    exists = "SELECT to_regclass('django_anyio_channels_job') IS NOT NULL"
    assert django.ask(exists) == [(False,)]

    def send() -> None:
        with transaction.atomic():
            layer.in_transaction().group_send_sync("room", n(1))

    await in_thread(send)
    assert django.ask(exists) == [(True,)]
    assert await numbers(layer, "jobs", 1) == [1]
    await layer.close()


async def test_savepoints_take_their_own_messages_with_them(layer: AnyioChannelLayer, member: str) -> None:
    def nested() -> None:
        news = layer.in_transaction()
        with transaction.atomic():
            news.group_send_sync("room", n(1))
            news.send_sync("a-queue", n(1))
            with pytest.raises(Oops), transaction.atomic():
                news.group_send_sync("room", n(2))
                news.send_sync("a-queue", n(2))
                with transaction.atomic():
                    news.group_send_sync("room", n(3))
                raise Oops
            with transaction.atomic():
                news.group_send_sync("room", n(4))
                with pytest.raises(Oops), transaction.atomic():
                    news.send_sync("a-queue", n(5))
                    raise Oops
                news.send_sync("a-queue", n(6))
            news.group_send_sync("room", n(7))

    await in_thread(nested)
    assert [message["n"] for message in await rest(layer, member)] == [1, 4, 7]
    assert [message["n"] for message in await rest(layer, "a-queue")] == [1, 6]


async def test_equal_messages_are_all_delivered(layer: AnyioChannelLayer, member: str) -> None:
    """The server folds equal notifications of one transaction into one, were they not numbered."""

    def send() -> None:
        with transaction.atomic():
            for _ in range(5):
                layer.in_transaction().group_send_sync("room", n(1))
                layer.in_transaction().send_sync("a-queue", n(1))

    await in_thread(send)
    assert await rest(layer, member) == [n(1)] * 5
    assert await rest(layer, "a-queue") == [n(1)] * 5


@pytest.mark.parametrize("size", [MAX_PAYLOAD - 200, MAX_PAYLOAD, 1_000_000])
async def test_big_messages_come_whole_and_in_order(django: Postgres, size: int) -> None:
    layer = AnyioChannelLayer(database="default")
    channel = await soon(layer.new_channel())
    await soon(layer.group_add("room", channel))
    big = {"type": "big", "bytes": os.urandom(size), "percent": "100 % {} %s $1 \\ ' \0"}

    def send() -> None:
        news = layer.in_transaction()
        with transaction.atomic():
            news.group_send_sync("room", n(1))
            news.group_send_sync("room", big)
            news.send_sync("a-queue", big)
            with pytest.raises(Oops), transaction.atomic():
                news.group_send_sync("room", big)
                raise Oops
            news.group_send_sync("room", n(2))

    await in_thread(send)
    assert await receive(layer, channel, 3) == [n(1), big, n(2)]
    assert await soon(layer.receive("a-queue")) == big
    with pytest.raises(MessageTooLarge, match="max_message_size is 4194304"):
        await in_thread(lambda: layer.in_transaction().group_send_sync("room", {"type": "x", "b": bytes(5_000_000)}))
    await layer.close()


async def test_a_full_queue_raises_and_leaves_the_transaction_usable(django: Postgres) -> None:
    layer = AnyioChannelLayer(database="default", capacity=2)
    await soon(layer.send("a-queue", n(0)))

    def send() -> None:
        news = layer.in_transaction()
        with transaction.atomic():
            news.send_sync("a-queue", n(1))
            with pytest.raises(ChannelFull, match=r"'a-queue' is full \(capacity 2\)"):
                news.send_sync("a-queue", n(2))
            news.send_sync("b-queue", n(3))

    await in_thread(send)
    assert await numbers(layer, "a-queue", 2) == [0, 1]
    assert await numbers(layer, "b-queue", 1) == [3]
    await layer.close()


async def test_a_table_that_vanished_is_made_for_a_transaction_too(layer: AnyioChannelLayer, django: Postgres) -> None:
    await soon(layer.send("a-queue", n(0)))
    django.ask("DROP TABLE django_anyio_channels_queue")

    def send() -> None:
        with transaction.atomic():
            layer.in_transaction().send_sync("a-queue", n(1))

    await in_thread(send)
    assert await numbers(layer, "a-queue", 1) == [1]


async def test_tables_of_another_role_are_not_used_in_a_transaction(
    layer: AnyioChannelLayer, member: str, django: Postgres, limits: dict[str, int]
) -> None:
    await soon(layer.send("a-queue", n(0)))
    owner = f"role_{django.database}"
    django.ask(f"CREATE ROLE {owner}")
    django.ask(f"ALTER TABLE django_anyio_channels_binding OWNER TO {owner}")

    def send() -> None:
        with transaction.atomic():
            with pytest.raises(NotSupported, match=f"belongs to {owner}"):
                layer.in_transaction().send_sync("a-queue", n(1))
            if limits["history_length"]:
                with pytest.raises(NotSupported, match=f"django_anyio_channels_commit .* belongs to {owner}"):
                    layer.in_transaction().group_send_sync("room", n(1))
            else:
                layer.in_transaction().group_send_sync("room", n(1))

    await in_thread(send)
    if not limits["history_length"]:
        assert await numbers(layer, member, 1) == [1]


async def test_a_transaction_whose_search_path_leads_elsewhere(layer: AnyioChannelLayer, django: Postgres) -> None:
    django.ask("CREATE SCHEMA elsewhere")

    def send() -> None:
        with transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute("SET LOCAL search_path = elsewhere")
            with pytest.raises(NotSupported, match="search_path of 'default' in this transaction does not lead to"):
                layer.in_transaction().send_sync("a-queue", n(1))

    await in_thread(send)


async def test_nobody_waits_for_a_transaction_that_lasts(layer: AnyioChannelLayer) -> None:
    def begin() -> None:
        transaction.set_autocommit(False)
        layer.in_transaction().send_sync("a-queue", n(1))

    await in_thread(begin)
    await soon(layer.send("a-queue", n(2)))
    assert await soon(layer.receive("a-queue")) == n(2)

    def roll_back() -> None:
        transaction.rollback()
        transaction.set_autocommit(True)

    await in_thread(roll_back)
    assert await rest(layer, "a-queue") == []


async def test_a_queue_in_a_group_receives_it_too(django: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    layer = AnyioChannelLayer(database="default", capacity=2)
    await soon(layer.group_add("room", "a-queue"))

    def send() -> None:
        with transaction.atomic():
            for number in range(3):
                layer.in_transaction().group_send_sync("room", n(number))
        with transaction.atomic():
            layer.in_transaction().group_send_sync("an-empty-room", n(9))

    await in_thread(send)
    assert await numbers(layer, "a-queue", 2) == [0, 1]
    assert await rest(layer, "a-queue") == []
    assert "Dropped a message to asgi:g:room for the full queue asgi:q:a-queue" in caplog.text
    await layer.close()


async def test_asynchronous_code_sends_on_the_same_connection(layer: AnyioChannelLayer, member: str) -> None:
    """An atomic block around awaits, entered and left in the thread of ``sync_to_async``, as asynchronous code must."""
    news = layer.in_transaction()
    for commit in (True, False):
        block = transaction.atomic()
        await sync_to_async(block.__enter__)()
        await soon(news.group_send("room", n(1)))
        await soon(news.send(member, n(2)))
        await soon(news.send("a-queue", n(3)))
        await soon(news.broadcast("room", text="4"))
        assert await rest(layer, member) == []
        await sync_to_async(block.__exit__)(*((None, None, None) if commit else (Oops, Oops(), None)))
        found = [message.get("n") or message["text"] for message in await rest(layer, member)]
        assert found == ([1, 2, "4"] if commit else [])
        assert await rest(layer, "a-queue") == ([n(3)] if commit else [])


async def test_synchronous_code_may_call_the_asynchronous_methods(layer: AnyioChannelLayer, member: str) -> None:
    def commit() -> None:
        with transaction.atomic():
            async_to_sync(layer.in_transaction().group_send)("room", n(3))

    await in_thread(commit)
    assert await numbers(layer, member, 1) == [3]

    def roll_back() -> None:
        with pytest.raises(Oops), transaction.atomic():
            async_to_sync(layer.in_transaction().group_send)("room", n(4))
            raise Oops

    await in_thread(roll_back)
    assert await rest(layer, member) == []


async def test_without_a_transaction_it_is_an_error(layer: AnyioChannelLayer, member: str) -> None:
    cure = r"no transaction on 'default'.* transaction\.atomic\(using='default'\), or use the layer's own send"
    with pytest.raises(TransactionManagementError, match=cure):
        await layer.in_transaction().group_send("room", n(1))
    with pytest.raises(TransactionManagementError, match=cure):
        await layer.in_transaction().send("a-queue", n(1))
    assert await rest(layer, member) == []


async def test_names_and_messages_are_checked_as_always(layer: AnyioChannelLayer) -> None:
    news = layer.in_transaction()
    with pytest.raises(TypeError, match="Group name must be"):
        news.group_send_sync("no group!", n(1))
    with pytest.raises(TypeError, match="Channel name must be"):
        news.send_sync("no channel?", n(1))
    with pytest.raises(TypeError, match="must be a dict"):
        news.send_sync("a-queue", [])  # type: ignore[arg-type]


async def test_another_alias_of_the_same_database_will_do(
    layer: AnyioChannelLayer, member: str, limits: dict[str, int]
) -> None:
    place = f"127.0.0.1:{connections.settings['other']['PORT']}/{connections.settings['other']['NAME']}"
    by_url = AnyioChannelLayer(
        url=f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@{place}",
        options=limits,
        symmetric_encryption_keys=["a key for the tests"],
    )

    def send() -> None:
        with transaction.atomic(using="other"):
            news = layer.in_transaction(using="other")
            news.group_send_sync("room", n(1))
            news.group_send_sync("room", n(2))
        with transaction.atomic():
            by_url.in_transaction().group_send_sync("room", n(3))

    await in_thread(send)
    assert await numbers(layer, member, 3) == [1, 2, 3]
    await by_url.close()


async def test_another_database_will_not_do(layer: AnyioChannelLayer, member: str) -> None:
    def send() -> None:
        with transaction.atomic(using="elsewhere"):
            with pytest.raises(NotSupported, match=r"DATABASES\['elsewhere'\] is not the database in which .* listens"):
                layer.in_transaction(using="elsewhere").group_send_sync("room", n(1))

    await in_thread(send)
    assert await rest(layer, member) == []


async def test_what_is_no_postgresql_is_told_the_cure(
    layer: AnyioChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}).settings
    monkeypatch.setitem(connections.settings, "lite", sqlite["default"])
    with pytest.raises(NotSupported, match=r"DATABASES\['lite'\] is not PostgreSQL; name the alias"):
        await layer.in_transaction("lite").group_send("room", n(1))
    with pytest.raises(NotSupported, match=r"Only a layer on PostgreSQL .*'database': 'default'.*on_commit"):
        AnyioChannelLayer(url="memory://").in_transaction()


@pytest.mark.parametrize(
    "options", [{"server_side_binding": True}, {"options": "-c default_transaction_isolation=serializable"}]
)
async def test_how_django_binds_and_isolates_makes_no_difference(
    layer: AnyioChannelLayer, member: str, options: dict[str, Any]
) -> None:
    connections.settings["default"]["OPTIONS"] = options
    await test_savepoints_take_their_own_messages_with_them(layer, member)
    await test_a_row_and_the_news_of_it(layer, member)


async def test_a_database_of_another_encoding(django: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    django.ask(f"CREATE DATABASE {django.database}_latin ENCODING 'LATIN1' TEMPLATE template0")
    latin = Postgres(django.server, django.programs, f"{django.database}_latin")
    monkeypatch.setitem(connections.settings, "latin", entry_of(latin))
    layer = AnyioChannelLayer(database="latin")
    channel = await soon(layer.new_channel())
    message = {"type": "text", "text": "\u20ac \N{SNOWMAN} \0", "bytes": bytes(range(256)) * 40}

    def send() -> None:
        with transaction.atomic(using="latin"):
            layer.in_transaction().send_sync(channel, message)
        connections["latin"].close()
        del connections["latin"]

    await in_thread(send)
    assert await soon(layer.receive(channel)) == message
    await layer.close()
    django.ask(f"DROP DATABASE {latin.database} WITH (FORCE)")


async def test_a_server_that_dies_before_the_commit_delivers_nothing(
    django: Postgres, own_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings, "mortal", entry_of(own_server))
    layer = AnyioChannelLayer(database="mortal", expiry=600)
    channel = await soon(layer.new_channel())
    await soon(layer.group_add("room", channel))

    def send() -> None:
        with pytest.raises(OperationalError), transaction.atomic(using="mortal"):
            layer.in_transaction().group_send_sync("room", n(1))
            layer.in_transaction().send_sync("a-queue", n(1))
            own_server.server.restart()
            layer.in_transaction().group_send_sync("room", n(2))
        connections["mortal"].close()
        with transaction.atomic(using="mortal"):
            layer.in_transaction().group_send_sync("room", n(3))
            layer.in_transaction().send_sync("a-queue", n(3))
        connections["mortal"].close()
        del connections["mortal"]

    await in_thread(lambda: None)
    sending = asyncio.ensure_future(sync_to_async(send)())
    await soon(sending)
    assert await soon(layer.receive("a-queue")) == n(3)
    await until(lambda: layer.statistics()["outages"] == 1)
    assert [each for each in await rest(layer, channel) if each != n(3)] == []  # 3 may come before it listens again
    await layer.close()


async def test_a_process_that_dies_before_the_commit_delivers_nothing(
    django: Postgres, layer: AnyioChannelLayer, member: str, tmp_path: Path
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DYING],
        cwd=ROOT,
        env=environment(django, PG_NAME=django.database),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "sent\n"), done.stderr
    assert await rest(layer, member) == []
    assert await rest(layer, "a-queue") == []


DYING = """
import os, signal
import django
django.setup()
from channels.layers import get_channel_layer
from django.db import transaction


layer = get_channel_layer()
with transaction.atomic():
    layer.in_transaction().group_send_sync("room", {"type": "never"})
    layer.in_transaction().send_sync("a-queue", {"type": "never"})
    print("sent", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


OF_A_DRIVER = "rollback or savepoints or equal or asynchronous_code_sends"
"""Tests of what Django's driver does; the statements without a history are those of ``commit_delivers``."""


@pytest.mark.timeout(240)  # it is many tests
def test_psycopg2() -> None:
    """Django takes psycopg 3 if it is there, so its tests run in a process whose Django does not find it."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "tests.brokers.postgres.psycopg2_only"),
            *(__file__, "-k", f"commit_delivers or history and ({OF_A_DRIVER}) or big or full or driver"),
        ],
        cwd=ROOT,
        env={**os.environ, "DRIVER": "psycopg2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


async def test_the_driver_is_the_one_that_is_meant(django: Postgres) -> None:
    connection: Any = connections.create_connection("default")
    assert connection.Database.__name__ == DRIVER
