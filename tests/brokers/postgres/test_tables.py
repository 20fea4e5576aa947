"""The tables among those of other roles: who owns them, and which rights they need."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from time import time_ns

import anyio
import psycopg
import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres.deliveries import PostgreSQLWork
from django_anyio_channels.brokers.postgres.queues import Message
from django_anyio_channels.brokers.postgres.statements import (
    GRANTS,
    HISTORY_GRANTS,
    JOB_GRANTS,
    KEYS_GRANTS,
    KEYS_HISTORY_GRANTS,
    PRESENCE_GRANTS,
    SCHEMA,
    SWEEP,
    in_schema,
)
from django_anyio_channels.brokers.postgres.tables import EVERYTHING, QUEUES, Tables
from django_anyio_channels.core.capabilities import PresenceRecord
from django_anyio_channels.core.exceptions import ChannelLayerError, NotSupported, PositionLost
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio

TIME_LIMIT = 60


class Role:
    """A role that may only log in, and what it does in a database."""

    def __init__(self, database: brokers.Postgres) -> None:
        self.name = f"role_{uuid.uuid4().hex}"
        self._database = database
        database.ask(f"CREATE ROLE {self.name} LOGIN PASSWORD '{self.name}'")

    @property
    def url(self) -> str:
        address = f"127.0.0.1:{self._database.server.port}/{self._database.database}"
        return f"postgresql://{self.name}:{self.name}@{address}"

    def run(self, script: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(script.encode())


@pytest.fixture
def role(database: brokers.Postgres) -> Iterator[Callable[[], Role]]:
    """Makes roles for the database of a test."""
    made: list[Role] = []

    def make() -> Role:
        made.append(Role(database))
        return made[-1]

    yield make
    for each in made:
        database.ask(f"DROP OWNED BY {each.name}")
        database.ask(f"DROP ROLE {each.name}")


async def goes_round(layer: PostgreSQLChannelLayer, message: bytes = b"x") -> None:
    await layer.subscribe("g")
    await layer.publish("g", message)
    assert (await layer.next_published()).message == message


@pytest.mark.parametrize(
    "what",
    ["TABLE public.django_anyio_channels_queue", "TABLE public.django_anyio_channels_binding", "FUNCTION public."],
)
async def test_what_another_role_made_is_not_used(
    database: brokers.Postgres,
    role: Callable[[], Role],
    connect: Connect,
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = role(), role()
    database.ask(f"GRANT CREATE ON SCHEMA public TO {ours.name}, {theirs.name}")
    theirs.run(in_schema(SCHEMA, "public"))
    theirs.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
    for each in ("TABLE public.django_anyio_channels_queue", "TABLE public.django_anyio_channels_binding"):
        if each != what:
            database.ask(f"ALTER {each} OWNER TO {ours.name}")
    if what != "FUNCTION public.":
        database.ask(f"ALTER FUNCTION public.django_anyio_channels_put OWNER TO {ours.name}")
    layer = await connect(ours.url)
    await goes_round(layer)
    assert f"miss what is sent to them by the role {ours.name}: a table or the function in the" in caplog.text
    cure = f"in the schema public belongs to {theirs.name}, which could run code with the rights of {ours.name}"
    for call in (layer.put("q", b"x", capacity=1, expiry=60), layer.take("q"), layer.purge("q")):
        with anyio.fail_after(TIME_LIMIT), pytest.raises(NotSupported, match=cure):
            await call


async def test_an_owner_of_the_schema_may_make_the_tables_for_others(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours, theirs = role(), role()
    schema = '"Chat room"'
    database.ask(f"CREATE SCHEMA {schema} AUTHORIZATION {theirs.name}")
    theirs.run(in_schema(SCHEMA, "Chat room") + in_schema(GRANTS, "Chat room").replace("{user}", ours.name))
    layer = await connect(ours.url, server_settings={"search_path": schema})
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    assert [bound.queue for bound in (await layer.publish("g", b"x")).bound_queues] == ["q"]
    await layer.put("q", b"x", capacity=1, expiry=60)
    assert await layer.take("q") == b"x"


async def test_functions_that_fit_better_are_not_called(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    """PostgreSQL prefers one with the very types, wherever it is in the search path."""
    theirs = role()
    database.ask(f"GRANT CREATE ON SCHEMA public TO {theirs.name}")
    refuse = "LANGUAGE plpgsql AS $$ BEGIN RAISE 'called with the rights of %', current_user; END $$"
    for function in (
        "unnest(text[]) RETURNS SETOF text",
        "unnest(bytea[]) RETURNS SETOF bytea",
        "make_interval(secs float8) RETURNS interval",
        "greatest(bigint, int) RETURNS bigint",
        "encode(bytea, unknown_text text) RETURNS text",
    ):
        theirs.run(f"CREATE FUNCTION public.{function} {refuse}")
    layer = await connect(database.url)
    await layer.bind("g", "q", capacity=10, expiry=60, lifetime=60)
    await goes_round(layer)
    async with anyio.create_task_group() as tasks:
        for queue in ("q", "p"):
            for _ in range(2):
                tasks.start_soon(lambda queue=queue: layer.put(queue, b"x", capacity=10, expiry=60))  # type: ignore[misc]
    assert await layer.take("q") == b"x"
    layer = await connect(database.url, history_length=2)
    layer.set_acknowledged(lambda queue: True)
    assert await uses(layer, theirs, database) == [1], "only theirs may not send"


async def test_without_a_schema_groups_work_and_queues_say_what_is_missing(
    database: brokers.Postgres, connect: Connect
) -> None:
    layer = await connect(database.url, server_settings={"search_path": "missing"})
    await goes_round(layer)
    with pytest.raises(NotSupported, match="search_path of postgres names no schema that exists"):
        await layer.put("q", b"x", capacity=1, expiry=60)
    database.ask("CREATE SCHEMA missing")
    await layer.put("q", b"x", capacity=1, expiry=60)
    database.ask("DROP SCHEMA missing CASCADE")
    with pytest.raises(NotSupported, match="search_path of postgres names no schema that exists"):
        await layer.put("q", b"x", capacity=1, expiry=60)


async def test_a_role_that_may_only_connect_has_groups(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    ours = role()
    layer = await connect(ours.url)
    await goes_round(layer, b"before")
    await (await connect(database.url)).bind("g", "q", capacity=1, expiry=60, lifetime=60)
    await goes_round(layer, b"after")
    await goes_round(layer, b"again")
    assert f"GRANT SELECT ON public.django_anyio_channels_binding TO {ours.name}" in caplog.text


async def test_rights_that_are_taken_away_meanwhile(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours = role()
    await (await connect(database.url)).bind("g", "q", capacity=1, expiry=60, lifetime=60)
    database.ask(f"GRANT SELECT ON django_anyio_channels_binding TO {ours.name}")
    layer = await connect(ours.url)
    assert (await layer.publish("g", b"x")).bound_queues
    database.ask(f"REVOKE ALL ON django_anyio_channels_binding FROM {ours.name}")
    await goes_round(layer)


async def test_the_least_rights(database: brokers.Postgres, role: Callable[[], Role], connect: Connect) -> None:
    """With those of grants.sql everything works, and each of them is needed for something."""
    ours, other = role(), await connect(database.url)
    await other.put("q", b"x", capacity=1, expiry=60)
    await other.read_presence("g")
    database.ask("REVOKE ALL ON FUNCTION django_anyio_channels_put FROM PUBLIC")
    database.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    grants = in_schema(f"{GRANTS}\n{PRESENCE_GRANTS}", "public").replace("{user}", ours.name)
    layer = await connect(ours.url)
    assert await refusals(layer) == 9
    database.ask(grants)
    assert await refusals(layer) == 0
    for line in grants.splitlines():
        privileges, place = line.removeprefix("GRANT ").rstrip(";").split(" ON ", 1)
        for privilege in privileges.split(", "):
            database.ask(f"REVOKE {privilege} ON {place.replace(' TO ', ' FROM ')}")
            assert await refusals(await connect(ours.url)) > 0, f"{privilege} on {place} is not needed"
            database.ask(f"GRANT {privilege} ON {place}")
    assert await refusals(await connect(ours.url)) == 0


async def refusals(layer: PostgreSQLChannelLayer) -> int:
    """Use every statement on the tables, and return how many were refused."""

    async def take() -> None:
        await layer.put("q", b"x", capacity=10, expiry=60)
        await layer.take("q")

    async def put_many() -> None:
        async with anyio.create_task_group() as tasks:
            for queue in ("p", "q", "p", "q"):
                tasks.start_soon(lambda queue=queue: layer.put(queue, b"x", capacity=1000, expiry=60))  # type: ignore[misc]

    async def sweep() -> None:
        session = layer._session
        assert session is not None
        await session.queues.tables.run(SWEEP)

    calls: list[Callable[[], Awaitable[object]]] = [
        take,
        put_many,
        lambda: layer.bind("g", "q", capacity=1, expiry=60, lifetime=60),
        lambda: layer.unbind("g", "q"),
        lambda: layer.purge("q"),
        lambda: layer.put_presence([PresenceRecord("g", "n", b"x")], 60),
        lambda: layer.put_presence([PresenceRecord("g", "n", b"")], 60),
        lambda: layer.read_presence("g"),
        sweep,
    ]
    count = 0
    with anyio.fail_after(TIME_LIMIT):
        for call in calls:
            try:
                await call()
            except* NotSupported:
                count += 1
    return count


async def test_the_least_rights_of_histories_and_acknowledged_work(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours, owner = role(), await connect(database.url, history_length=10)
    await owner.join("g", "workers")
    await owner.publish_once("g", b"x", key="k", seconds=60)
    await owner.read_presence("g")
    database.ask("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")
    tables = EVERYTHING.find(("public", True, None, True, ours.name))
    layer = await connect(ours.url, history_length=2, redeliver_after=0.1)
    layer.set_acknowledged(lambda queue: queue == "durable")
    database.ask(f"GRANT USAGE ON SCHEMA public TO {ours.name}")
    with pytest.raises(NotSupported, match=r"(?s)need these rights on their tables:.*GRANT EXECUTE ON FUNCTION"):
        await layer.publish("g", b"x")
    database.ask(tables.grants)
    assert await uses(layer, ours, database) == []
    grants = f"{HISTORY_GRANTS}\n{JOB_GRANTS}\n{KEYS_GRANTS}\n{KEYS_HISTORY_GRANTS}"
    for line in in_schema(grants, "public").replace("{user}", ours.name).splitlines():
        privileges, place = line.removeprefix("GRANT ").rstrip(";").split(" ON ", 1)
        for privilege in privileges.split(", "):
            database.ask(f"REVOKE {privilege} ON {place.replace(' TO ', ' FROM ')}")
            assert await uses(layer, ours, database), f"{privilege} on {place} is not needed"
            database.ask(f"GRANT {privilege} ON {place}")
    assert await uses(layer, ours, database) == []


async def uses(layer: PostgreSQLChannelLayer, role: Role, database: brokers.Postgres) -> list[int]:
    """Use every statement on the tables, and return which were refused."""
    session = layer._session
    assert session is not None
    jobs = session.jobs

    async def send() -> None:
        with closing(psycopg.connect(role.url, autocommit=True)) as connection:
            connection.execute(
                "INSERT INTO django_anyio_channels_outbox (topic, channel, payload, keep_length, keep_bytes, keep_us) "
                "VALUES ('g', 'g', '.x', 2, 100, 1000000) RETURNING id"
            )

    async def fill() -> None:
        for _ in range(6):
            await layer.publish("g", b"x")

    async def deliver() -> None:
        work = PostgreSQLWork(b"g", b"workers")
        await work.deliver(session, "node", time_ns(), 10, 0.001)
        reply = await work.deliver(session, "node", time_ns(), 10, 60)
        assert reply is not None
        await work.release(session, [each.work_id for each in reply.delivered], undelivered=True)
        for each in reply.delivered:
            await work.acknowledge(session, each.work_id)

    async def from_queue() -> None:
        await layer.put("q", b"x", capacity=100, expiry=60)
        await PostgreSQLWork(b"q").deliver(session, "node", time_ns(), 1, 60)

    calls: list[Callable[[], Awaitable[object]]] = [
        fill,
        send,
        lambda: layer.position("new"),
        lambda: layer.history("g", since="00000000-0-0", limit=1),
        lambda: layer.history("g", since=None, limit=1),
        session.is_memory_lost,
        session.histories.prune,
        lambda: layer.join("g", "workers"),
        lambda: layer.publish("g", b"work"),
        deliver,
        from_queue,
        lambda: jobs.put(Message(b"durable", b"x", 1000, 60)),
        jobs.sweep,
        lambda: layer.publish_once("g", b"x", key="k", seconds=0),
        lambda: layer.put_once("durable", b"x", capacity=1000, expiry=60, key="k", seconds=0),
        session.keys.sweep,
        lambda: layer.inspect_queues("g", 10),
        lambda: layer.count_history("g"),
        lambda: layer.remove_from_history("g", ["00000000-0-0"]),
        lambda: layer.queue_length("durable"),
        lambda: layer.purge("g"),
    ]
    refused = []
    for number, call in enumerate(calls):
        try:
            with anyio.fail_after(TIME_LIMIT):
                await call()
        except (NotSupported, psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            refused.append(number)
        except PositionLost:
            pass
    return refused


async def test_what_another_role_made_keeps_no_history(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours, theirs = role(), role()
    database.ask(f"GRANT CREATE ON SCHEMA public TO {ours.name}, {theirs.name}")
    layer = await connect(ours.url, history_length=10)
    theirs.run(
        "CREATE FUNCTION public.django_anyio_channels_prune(bytea) RETURNS void LANGUAGE sql AS 'SELECT'; "
        "CREATE TABLE public.django_anyio_channels_cursor (topic bytea)"
    )
    cure = f"in the schema public belongs to {theirs.name}, which could run code with the rights of {ours.name}"
    for call in (layer.publish("g", b"x"), layer.position("g"), layer.receive_job("q"), layer.join("g", "workers")):
        with anyio.fail_after(TIME_LIMIT), pytest.raises(NotSupported, match=cure):
            await call
    theirs.run("DROP FUNCTION public.django_anyio_channels_prune")
    assert (await layer.publish("g", b"x")).position is not None
    with pytest.raises(NotSupported, match=cure):
        await layer.join("g", "workers")
    assert not await other_jobs(layer)
    theirs.run("DROP TABLE public.django_anyio_channels_cursor")
    await layer.join("g", "workers")
    assert await other_jobs(layer)


async def other_jobs(layer: PostgreSQLChannelLayer) -> bool:
    session = layer._session
    assert session is not None
    return await session.jobs.tables.exist()


async def test_who_may_not_create_the_tables_of_histories_is_given_the_sql(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours = role()
    database.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    layer = await connect(ours.url, history_length=10)
    with pytest.raises(NotSupported, match=f"Histories need tables and functions, which {ours.name} may not") as caught:
        await layer.publish("g", b"x")
    database.ask(str(caught.value).partition("run this:\n")[2])
    assert (await layer.publish("g", b"x")).position is not None


async def test_who_may_not_look_for_the_tables_is_told_so(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    database.ask("REVOKE SELECT ON pg_catalog.pg_database FROM PUBLIC")
    layer = await connect(role().url, history_length=10)
    for call in (
        layer.put("q", b"x", capacity=1, expiry=60),
        layer.publish("g", b"x"),
        layer.inspect_queues("", 1),
        layer.purge("q"),
    ):
        with anyio.fail_after(TIME_LIMIT), pytest.raises(ChannelLayerError, match="cannot be looked for: permission"):
            await call


@pytest.mark.parametrize("queue", ["q", "another"])
async def test_a_lock_that_another_role_holds_stops_no_queue(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect, queue: str
) -> None:
    layer = await connect(database.url)
    await layer.put("q", b"x", capacity=10, expiry=60)
    with psycopg.connect(role().url) as theirs:
        theirs.execute("SELECT pg_advisory_lock(hashtextextended(encode('q', 'hex'), 7241))")
        with anyio.fail_after(TIME_LIMIT):
            await layer.put(queue, b"y", capacity=10, expiry=60)
    assert await layer.take(queue) == {"q": b"x", "another": b"y"}[queue]


async def test_a_lock_that_another_role_holds_while_the_tables_are_made(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    layer = await connect(database.url)
    with psycopg.connect(role().url) as theirs:
        theirs.execute("SELECT pg_advisory_lock(7241003358)")
        with anyio.fail_after(TIME_LIMIT), pytest.raises(ChannelLayerError, match="cannot be created: .*lock timeout"):
            await layer.put("q", b"x", capacity=10, expiry=60)
    await goes_round(layer)
    await layer.put("q", b"x", capacity=10, expiry=60)


async def test_a_role_whose_transactions_only_read_keeps_its_session(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours = role()
    await (await connect(database.url)).put("q", b"x", capacity=10, expiry=60)
    database.ask(in_schema(GRANTS, "public").replace("{user}", ours.name))
    database.ask(f"ALTER ROLE {ours.name} SET default_transaction_read_only = on")
    layer = await connect(ours.url)
    processes = layer.processes
    with pytest.raises(NotSupported, match="default_transaction_read_only is on"):
        await layer.put("q", b"x", capacity=10, expiry=60)
    await goes_round(layer)
    assert layer.processes == processes
    layer = await connect(ours.url, server_settings={"default_transaction_read_only": "off"})
    await layer.put("q", b"x", capacity=10, expiry=60)


async def test_operators_of_other_roles_are_not_used(
    database: brokers.Postgres, role: Callable[[], Role], connect: Connect
) -> None:
    ours, theirs = role(), role()
    database.ask(f"GRANT CREATE ON SCHEMA public TO {ours.name}, {theirs.name}")
    database.ask("CREATE TABLE called (by text); GRANT INSERT ON called TO PUBLIC")
    for kind in ("regclass", "regprocedure", "regrole"):
        # An operator whose types fit exactly wins over those of pg_catalog, wherever in the search_path it is.
        theirs.run(
            f"""
            CREATE FUNCTION public.spy(one oid, two {kind}) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO public.called VALUES (current_user); RETURN one = two::oid; END $$;
            CREATE OPERATOR public.= (FUNCTION = public.spy, LEFTARG = oid, RIGHTARG = {kind})
            """
        )
    layer = await connect(ours.url)
    await layer.put("q", b"x", capacity=10, expiry=60)
    await layer.bind("g", "q", capacity=10, expiry=60, lifetime=60)
    await layer.publish("g", b"y")
    assert await layer.take("q") == b"x"
    layer = await connect(ours.url, history_length=2)
    layer.set_acknowledged(lambda queue: True)
    assert await uses(layer, ours, database) == []
    assert database.ask("SELECT * FROM called") == []


def test_nothing_is_bound_where_there_is_no_table_of_bindings() -> None:
    assert not Tables(
        QUEUES, "public", are_complete=False, foreign_owner=None, bindings_are_readable=None, user="me"
    ).have_bindings()
