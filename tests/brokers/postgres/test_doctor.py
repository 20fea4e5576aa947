"""What the doctor finds at servers that are set up badly, behind poolers, and for roles with few rights."""

from __future__ import annotations

import pytest

from django_anyio_channels.brokers.postgres import doctor
from django_anyio_channels.core.inspection import Finding
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio

LARGEST = 4 * 1024 * 1024
GOOD = ["17.2", 170002, 100.0, 5, 100, 0.0, True, 0, "django", False]
(VERSION, NUMBER, CLOCK, USED, LIMIT, NOTIFICATIONS, AUTOVACUUM, IDLE_MS, ROLE, IS_SUPERUSER) = range(10)


def texts(findings: list[Finding], level: str) -> list[str]:
    return [each.text for each in findings if each.level == level]


async def test_a_role_of_its_own(database: brokers.Postgres, connect: Connect) -> None:
    database.ask("CREATE ROLE plain LOGIN PASSWORD 'secret'")
    database.ask("GRANT CREATE, USAGE ON SCHEMA public TO plain")
    try:
        layer = await connect(database.url, user="plain", password="secret")
        found = await layer.diagnose(LARGEST)
        assert not texts(found, "warning")
        assert any(
            text.endswith("has no tables for normal channels yet; the first message makes them")
            for text in texts(found, "ok")
        )
        assert await layer.inspect_queues("", 1) == []
        assert database.ask("SELECT relname FROM pg_class WHERE relname LIKE 'django%%'") == []
        await layer.put("jobs", b"x", capacity=1, expiry=60.0)
        found = await layer.diagnose(LARGEST)
        assert any("has the tables for normal channels in the schema public" in text for text in texts(found, "ok"))
        assert any(text.startswith("No pooler stands before ") for text in texts(found, "ok"))
        await layer.disconnect()
    finally:
        database.ask("DROP OWNED BY plain")
        database.ask("DROP ROLE plain")


@pytest.mark.parametrize(
    ("options", "acknowledged", "purpose"),
    [
        ({"history_length": 10}, False, "histories"),
        ({"history_length": 10, "consumer_group": "workers"}, False, "acknowledged channels"),
        ({}, True, "acknowledged channels"),
    ],
)
async def test_the_tables_that_are_needed(
    database: brokers.Postgres, connect: Connect, options: dict[str, object], acknowledged: bool, purpose: str
) -> None:
    layer = await connect(database.url, **options)
    if acknowledged:
        layer.set_acknowledged(lambda queue: True)
    await layer.bind("g", "q", capacity=1, expiry=60.0, lifetime=60.0)
    found = texts(await layer.diagnose(LARGEST), "ok")
    assert any(text.endswith(f"has no tables for {purpose} yet; the first message makes them") for text in found)
    await (layer.put("q", b"x", capacity=1, expiry=60.0) if acknowledged else layer.purge("q"))
    if "consumer_group" in options:
        await layer.join("g", "workers")
    found = texts(await layer.diagnose(LARGEST), "ok")
    assert any(text.endswith(f"has the tables for {purpose} in the schema public") for text in found)


async def test_a_superuser_is_more_than_is_needed(database: brokers.Postgres, connect: Connect) -> None:
    [warning] = texts(await (await connect(database.url)).diagnose(LARGEST), "warning")
    assert warning.startswith("The role postgres at postgresql://")


async def test_rights_that_are_missing_are_named(database: brokers.Postgres, connect: Connect) -> None:
    first = await connect(database.url)
    await first.put("jobs", b"x", capacity=1, expiry=60.0)
    database.ask("CREATE ROLE poor LOGIN PASSWORD 'secret'")
    try:
        layer = await connect(database.url, user="poor", password="secret")
        [error] = [each for each in await layer.diagnose(LARGEST) if each.level == "error"]
        assert error.text.startswith("The role poor at ")
        assert error.text.endswith(" lacks rights on the tables of normal channels")
        assert "GRANT SELECT, INSERT, UPDATE, DELETE" in error.cure
        with pytest.raises(Exception, match=r"permission denied.* Normal channels need these rights"):
            await layer.inspect_queues("", 1)
        database.ask("ALTER ROLE poor SET search_path = nowhere")
        other = await connect(database.url, user="poor", password="secret")
        [error] = [each for each in await other.diagnose(LARGEST) if each.level == "error"]
        assert error.text.endswith("has no usable tables for normal channels")
        assert "names no schema that exists" in error.cure
        await layer.disconnect()
        await other.disconnect()
    finally:
        database.ask("DROP OWNED BY poor")
        database.ask("DROP ROLE poor")


async def test_poolers_are_recognised(database: brokers.Postgres, connect: Connect) -> None:
    with brokers.pgbouncer(database, "session") as pooler:
        found = await (await connect(pooler.url)).diagnose(LARGEST)
        [warning] = texts(found, "warning")
        assert warning.endswith("is a pooler, and the connection that listens passes through it")
    with brokers.pgbouncer(database, "transaction") as pooler:
        found = await (await connect(pooler.url, listen_url=database.url)).diagnose(LARGEST)
        assert any(
            text.endswith("is a pooler, and the connection that listens goes past it") for text in texts(found, "ok")
        )
        assert any(" is PostgreSQL " in text for text in texts(found, "ok"))


async def test_a_server_that_does_not_say(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(database.url)
    monkeypatch.setattr(doctor, "SERVER_SETUP", "SELECT 1 / 0")
    found = await layer.diagnose(LARGEST)
    assert texts(found, "unknown")[0].endswith("does not say how it is set up: division by zero")


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, "ok", "it is PostgreSQL 17.2"),
        ({VERSION: "13.9", NUMBER: 130009}, "error", "it is PostgreSQL 13.9, which is too old"),
        ({CLOCK: 200.0}, "warning", "The clock of it is 100.0 s ahead of this one"),
        ({USED: 90}, "warning", "it has 90 of 100 connections; each node takes two"),
        (
            {NOTIFICATIONS: 0.75},
            "error",
            "The queue of notifications at it is 75% full; publishing fails when it is",
        ),
        ({AUTOVACUUM: False}, "warning", "it has no autovacuum, so the table of normal channels grows"),
        ({IDLE_MS: 5000}, "warning", "it ends sessions that are idle for 5 s"),
        ({IS_SUPERUSER: True}, "warning", "The role django at it is a superuser, which the layer does not need"),
    ],
    ids=str,
)
def test_what_a_server_says(changes: dict[int, object], level: str, text: str) -> None:
    setup = [changes.get(index, value) for index, value in enumerate(GOOD)]
    found = list(doctor._of_server("it", setup, 100.0, 100.0))
    assert text in texts(found, level)
    assert sum(each.level != "ok" for each in found) == bool(changes)
    assert all(each.cure for each in found if each.level != "ok")
