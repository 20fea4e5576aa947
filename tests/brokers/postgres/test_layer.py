"""What is PostgreSQL's own, beyond the contract of a layer."""

from __future__ import annotations

import importlib
import socket
import sys
from typing import Any

import anyio
import psycopg
import pytest

from django_anyio_channels import ListenerClosed, MissingDriver, NotSupported, PostgreSQLChannelLayer, QueueFull
from django_anyio_channels.brokers.postgres import queues as postgres_queues
from django_anyio_channels.brokers.postgres.queues import Queues
from django_anyio_channels.brokers.postgres.statements import CREATE
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import free_port, running

from .conftest import Connect

pytestmark = pytest.mark.anyio


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pasword": "x"}, "no option 'pasword'; did you mean 'password'"),
        ({"probe_intervall": 1}, "no option 'probe_intervall'; did you mean 'probe_interval'"),
        ({"statement_cache_size": 1}, "no option 'statement_cache_size'"),
        ({"xyz": 1}, "no option 'xyz'; asyncpg's are .*database"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        PostgreSQLChannelLayer("postgresql://localhost", **options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://user:secret@localhost", r"'postgresql://localhost/' is no URL of PostgreSQL: postgresql://user"),
        ("postgresql://u:secret@h/d?sslmod=require", "postgresql://h/d has an unknown option 'sslmod'.*'sslmode'"),
        ("postgresql://h/d?xyz=1", "unknown option 'xyz'; settings of the server go into server_settings"),
    ],
)
def test_a_wrong_url_is_refused_without_telling_its_secrets(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PostgreSQLChannelLayer(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "address"),
    [
        ("postgresql://u:secret@h:5433/d?sslmode=require", {}, "postgresql://h:5433/d"),
        ("postgres://u@h", {"port": 5433, "database": "d", "password": "secret"}, "postgresql://h:5433/d"),
        (None, {"host": ["a", "b"], "database": "d"}, "postgresql://a,b/d"),
        (None, {"host": "/run/postgresql", "database": "d"}, "postgresql://%2Frun%2Fpostgresql/d"),
        ("postgresql:///d?host=h&port=5433", {}, "postgresql://h:5433/d"),
        (None, {}, "postgresql:///"),
    ],
)
def test_the_address_has_no_secrets(url: str | None, options: dict[str, Any], address: str) -> None:
    assert PostgreSQLChannelLayer(url, **options).address == address


async def test_asyncpgs_own_arguments_do_instead_of_a_url(database: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**database.connection, server_settings={"application_name": "mine"})
    await layer.connect()
    await layer.subscribe("g")
    await layer.publish("g", b"x")
    assert (await layer.next_published()).message == b"x"
    names = database.ask("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
    assert names.count(("mine",)) == 2
    await layer.disconnect()


# ---- connections ------------------------------------------------------------------------------------------------


def count_connections(database: brokers.Postgres) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'django-anyio-channels'"
    ((count,),) = database.ask(query, database.database, database="postgres")
    assert isinstance(count, int)
    return count


async def test_a_layer_has_two_connections_whatever_it_does(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(layer.subscribe, f"g{number}")
            tasks.start_soon(layer.publish, f"g{number}", b"x")
    await layer.put("q", b"x", capacity=10, expiry=60)
    await layer.take("q")
    assert count_connections(database) == 2


async def test_it_tells_who_holds_the_connections(database: brokers.Postgres, connect: Connect) -> None:
    await connect(database.url)
    assert count_connections(database) == 2


async def test_publish_subscribe_makes_nothing_in_the_database(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.subscribe("g")
    await layer.publish("g", b"x")
    assert database.ask("SELECT relname FROM pg_class WHERE relname LIKE 'django%%'") == []


# ---- others on the same database --------------------------------------------------------------------------------


async def test_a_strangers_notification_disturbs_nobody(
    database: brokers.Postgres, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    layer = await connect(database.url)
    await layer.subscribe("g")
    database.ask("NOTIFY g, 'hello'")
    database.ask("NOTIFY g")
    await layer.publish("g", b"ours")
    assert (await layer.next_published()).message == b"ours"
    records = [record for record in caplog.records if record.name == "django_anyio_channels"]
    assert [record.getMessage() for record in records] == [
        "Dropped a notification on channel g: another program notifies this channel too"
    ] * 2


async def test_what_is_on_its_way_when_nobody_wants_it_any_more_is_dropped(
    database: brokers.Postgres, connect: Connect
) -> None:
    layer = await connect(database.url)
    assert layer._life is not None
    await layer._life._listening.execute("LISTEN given_up")
    await layer.subscribe("g")
    database.ask("NOTIFY given_up")
    await layer.publish("g", b"ours")
    assert (await layer.next_published()).message == b"ours"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_every_byte_arrives_whatever_the_encoding_of_the_database(
    server: brokers.Postgres, connect: Connect, encoding: str
) -> None:
    name = f"encoded_{encoding.lower()}"
    server.ask(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    layer = await connect(brokers.Postgres(server.server, server.programs, name).url)
    group, message = "Räume", bytes(range(256)) * 100
    await layer.subscribe(group)
    await layer.publish(group, message)
    event = await layer.next_published()
    assert (event.group, event.message) == (group, message)
    await layer.put(group, message, capacity=1, expiry=60)
    assert await layer.take(group) == message


# ---- tables of queues -------------------------------------------------------------------------------------------


async def test_two_layers_that_need_the_tables_at_once_make_them_once(
    database: brokers.Postgres, connect: Connect
) -> None:
    layers = [await connect(database.url) for _ in range(4)]

    async def put(layer: PostgreSQLChannelLayer) -> None:
        await layer.put("q", b"x", capacity=10, expiry=60)

    async with anyio.create_task_group() as tasks:
        for layer in layers:
            tasks.start_soon(put, layer)
    for layer in layers:
        assert await layer.take("q") == b"x"


async def test_without_the_right_to_make_tables_the_error_has_the_sql(
    database: brokers.Postgres, connect: Connect
) -> None:
    database.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    database.ask("DO $$ BEGIN CREATE ROLE guest LOGIN PASSWORD 'guest'; EXCEPTION WHEN duplicate_object THEN END $$")
    guest = {**database.connection, "user": "guest", "password": "guest"}
    layer = PostgreSQLChannelLayer(**guest)
    await layer.connect()
    try:
        await layer.subscribe("g")
        await layer.publish("g", b"needs no tables")
        assert (await layer.next_published()).message == b"needs no tables"
        for call in (layer.put("q", b"x", capacity=1, expiry=60), layer.take("q"), layer.purge("q")):
            with pytest.raises(NotSupported) as caught:
                await call
            assert layer.address in str(caught.value)
            assert CREATE in str(caught.value)
        with psycopg.connect(database.url, autocommit=True) as owner:
            owner.execute(CREATE.encode())
        with pytest.raises(NotSupported, match=r"permission denied .*GRANT them"):
            await layer.put("q", b"x", capacity=1, expiry=60)
        database.ask("GRANT ALL ON django_anyio_channels_queue, django_anyio_channels_binding TO guest")
        await layer.put("q", b"x", capacity=1, expiry=60)
        assert await layer.take("q") == b"x"
    finally:
        await layer.disconnect()


async def test_tables_that_vanish_are_made_again(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    await layer.publish("g", b"x")
    assert await layer.take("q") == b"x"
    database.ask("DROP TABLE django_anyio_channels_queue, django_anyio_channels_binding")
    await layer.publish("g", b"unbound now")
    await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"y"


@pytest.mark.parametrize(
    "what",
    [
        "TABLE django_anyio_channels_queue",
        "TABLE django_anyio_channels_binding",
        "FUNCTION django_anyio_channels_put",
    ],
)
async def test_a_part_of_what_queues_need_that_vanishes_is_made_again(
    database: brokers.Postgres, connect: Connect, what: str
) -> None:
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"
    database.ask(f"DROP {what}")
    await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"y"
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    await layer.publish("g", b"z")
    assert await layer.take("q") == b"z"


async def test_a_function_of_another_version_disturbs_nobody(database: brokers.Postgres, connect: Connect) -> None:
    former = (
        "django_anyio_channels_put(queues bytea[], messages bytea[], expiries float8[], capacities int[], wakes text[])"
    )
    database.ask(f"CREATE FUNCTION {former} RETURNS SETOF boolean LANGUAGE sql AS 'SELECT false'")
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    with pytest.raises(QueueFull):
        await layer.put("q", b"y", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"


@pytest.mark.parametrize("preferred", ["plan_cache_mode = force_custom_plan", "enable_indexscan = off"])
async def test_a_long_queue_is_taken_in_its_order_however_the_database_plans(
    database: brokers.Postgres, connect: Connect, preferred: str
) -> None:
    database.ask(f"ALTER DATABASE {database.database} SET {preferred}")
    layer = await connect(database.url)
    for number in range(300):
        await layer.put("q", b"%d" % number, capacity=1000, expiry=60)
    assert [await layer.take("q") for _ in range(300)] == [b"%d" % number for number in range(300)]


async def test_the_isolation_that_the_database_prefers_makes_no_difference(
    database: brokers.Postgres, connect: Connect
) -> None:
    database.ask(f"ALTER DATABASE {database.database} SET default_transaction_isolation = 'serializable'")
    layers = [await connect(database.url) for _ in range(4)]
    taken: list[bytes] = []
    full = 0

    async def put(layer: PostgreSQLChannelLayer, number: int) -> None:
        nonlocal full
        try:
            await layer.put("q", b"%d" % number, capacity=20, expiry=60)
        except QueueFull:
            full += 1

    async def take(layer: PostgreSQLChannelLayer, count: int) -> None:
        for _ in range(count):
            taken.append(await layer.take("q"))

    with anyio.fail_after(30):
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(put, layers[number % 4], number)
            assert full == 20
            async with anyio.create_task_group() as tasks:
                for layer in layers:
                    tasks.start_soon(take, layer, 5)
            assert len(set(taken)) == 20
            full, taken = 0, []


async def test_nobodys_backlog_is_swept_by_a_new_layer(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=1, expiry=60)
    other = await connect(database.url)
    await other.put("another", b"x", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"


async def test_dead_rows_go_by_themselves(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_queues, "_LOOK_SECONDS", 0.01)
    layer = await connect(database.url)
    await layer.put("q", b"dies", capacity=10, expiry=0.01)
    await layer.put("q", b"lives", capacity=10, expiry=60)
    await layer.bind("g", "q", capacity=10, expiry=60, lifetime=0.01)
    query = "SELECT message FROM django_anyio_channels_queue UNION ALL SELECT topic FROM django_anyio_channels_binding"
    with anyio.fail_after(30):
        while (rows := await anyio.to_thread.run_sync(database.ask, query)) != [(b"lives",)]:
            assert (b"lives",) in rows


# ---- poolers and stand-bys --------------------------------------------------------------------------------------


async def test_a_pooler_in_transaction_mode_is_recognised(server: brokers.Postgres) -> None:
    with brokers.pgbouncer(server, "transaction") as pooler:
        layer = PostgreSQLChannelLayer(pooler.url)
        for _ in range(3):
            with pytest.raises(
                ListenerClosed, match=r"transaction mode \(PgBouncer, RDS Proxy\).*listen_url"
            ) as caught:
                await layer.connect()
            assert str(pooler.server.port) in str(caught.value)


async def test_listen_url_leads_around_a_pooler(database: brokers.Postgres, connect: Connect) -> None:
    with brokers.pgbouncer(database, "transaction") as pooler:
        layer = await connect(pooler.url, listen_url=database.url)
        other = await connect(pooler.url, listen_url=database.url)
        await layer.subscribe("g")
        await layer.bind("g", "q", capacity=1000, expiry=60, lifetime=60)
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon((layer, other)[number % 2].publish, "g", b"%d" % number)
        expected = {b"%d" % number for number in range(200)}
        assert {(await layer.next_published()).message for _ in range(200)} == expected
        assert {await other.take("q") for _ in range(200)} == expected
        await layer.disconnect()
        await other.disconnect()


async def test_a_pooler_in_session_mode_will_do(database: brokers.Postgres, connect: Connect) -> None:
    with brokers.pgbouncer(database, "session") as pooler:
        layer = await connect(pooler.url)
        await layer.subscribe("g")
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        await layer.disconnect()


async def test_a_listen_url_to_another_database_is_noticed(
    database: brokers.Postgres, server: brokers.Postgres
) -> None:
    layer = PostgreSQLChannelLayer(database.url, listen_url=server.url)
    with pytest.raises(ListenerClosed, match="Both must lead to the same database"):
        await layer.connect()


async def test_a_standby_is_recognised(server: brokers.Postgres) -> None:
    with brokers.standby(server) as standby:
        layer = PostgreSQLChannelLayer(standby.url)
        with pytest.raises(ListenerClosed, match=r"is a stand-by.*target_session_attrs=primary"):
            await layer.connect()


# ---- getting in -------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "password": "wrong"})
    with pytest.raises(
        ListenerClosed, match=r"authentication failed.*Correct the user name and the password"
    ) as caught:
        await layer.connect()
    assert layer.address in str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_a_missing_database_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "database": "missing"})
    with pytest.raises(ListenerClosed, match=r'"missing" does not exist.*Create the database'):
        await layer.connect()


async def test_tls_that_the_server_requires() -> None:
    protected = brokers.protected()
    with running(protected.server):
        with pytest.raises(ListenerClosed, match=r"The server wants TLS: add \?sslmode=require"):
            await PostgreSQLChannelLayer(protected.url + "?sslmode=disable").connect()
        authority = protected.server.folder / "ca.crt"
        layer = PostgreSQLChannelLayer(f"{protected.url}?sslmode=verify-full&sslrootcert={authority}")
        await layer.connect()
        await layer.subscribe("g")
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        await layer.disconnect()


async def test_a_full_server_is_named() -> None:
    small = brokers.plain("max_connections=6", "superuser_reserved_connections=0", "reserved_connections=0")
    with running(small.server):
        layers = [PostgreSQLChannelLayer(small.url) for _ in range(4)]
        for layer in layers[:3]:
            await layer.connect()
        with pytest.raises(ListenerClosed, match=r"too many clients.*two connections: raise the server's max_conn"):
            await layers[3].connect()
        await layers[0].disconnect()
        await layers[3].connect()
        for layer in layers[1:]:
            await layer.disconnect()


# ---- connecting and disconnecting -------------------------------------------------------------------------------


async def test_what_is_not_connected_says_so() -> None:
    layer = PostgreSQLChannelLayer("postgresql://localhost")
    with pytest.raises(ListenerClosed, match="localhost/ is not connected; use the layer through a Channel"):
        await layer.next_published()
    with pytest.raises(ListenerClosed, match="is not connected; use the layer through a Channel"):
        await layer.publish("g", b"x")


async def test_connecting_to_nobody_who_answers_may_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        layer = PostgreSQLChannelLayer(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.connect)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ListenerClosed, match="is not connected yet"):
                await layer.publish("g", b"x")
            tasks.cancel_scope.cancel()
        with pytest.raises(ListenerClosed, match="is not connected; use"):
            await layer.publish("g", b"x")


async def test_it_counts_the_nodes_that_listen(database: brokers.Postgres, connect: Connect) -> None:
    one, two = await connect(database.url), await connect(database.url)
    assert await one.count_subscribers("g") == 0
    for layer in (one, two):
        await layer.subscribe("g")
    assert await one.count_subscribers("g") == 2
    await two.unsubscribe("g")
    assert await one.count_subscribers("g") == 1


async def test_an_unexpected_error_ends_the_life_and_is_logged(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Queues) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(Queues, "watch", broken)
    layer = await connect(database.url)
    with anyio.fail_after(30), pytest.raises(ListenerClosed, match="by accident"):
        await layer.next_published()
    assert "Unexpected error of the PostgreSQL layer, starting afresh: ZeroDivisionError('by accident')" in caplog.text


def test_without_the_driver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "django_anyio_channels.brokers.postgres.layer")
    with pytest.raises(MissingDriver, match=r"pip install django-anyio-channels\[postgres\]$"):
        importlib.import_module("django_anyio_channels.brokers.postgres.layer")


async def test_a_layer_that_could_not_connect_may_be_disconnected() -> None:
    layer = PostgreSQLChannelLayer(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(ListenerClosed, match="Connect"):
        await layer.connect()
    await layer.disconnect()
    with pytest.raises(ListenerClosed, match="is not connected"):
        await layer.publish("room", b"x")
