"""Where a database is and how to log in to it: `django_anyio_channels.brokers.postgres.address`."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb, walk_tb
from typing import Any

import anyio
import asyncpg
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.to_thread import run_sync

from django_anyio_channels import AnyioChannelLayer, ListenerClosed, PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres.address import Address
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import free_port, running

pytestmark = pytest.mark.anyio

SECRET = "hunter22"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pasword": "x"}, "no option 'pasword'. Did you mean 'password'"),
        ({"probe_intervall": 1}, "no option 'probe_intervall'. Did you mean 'probe_interval'"),
        ({"statement_cache_size": 1}, "no option 'statement_cache_size'"),
        ({"xyz": 1}, "no option 'xyz'. Its options are consumer_group, credentials, database, "),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        PostgreSQLChannelLayer("postgresql://localhost", **options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://user:secret@localhost", r"'redis://localhost' is not a PostgreSQL URL; one is postgresql://user"),
        ("postgresql://u:secret@h/d?sslmod=require", "postgresql://h/d has an unknown option 'sslmod'.*'sslmode'"),
        ("postgresql://h/d?xyz=1", "unknown option 'xyz'. Settings of the server go into server_settings"),
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


async def test_a_wrong_password_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "password": "wrong"})
    with pytest.raises(
        ListenerClosed, match=r"authentication failed.*Correct the user name and the password"
    ) as caught:
        await layer.connect()
    assert layer.address in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("server_answers", [True, False])
async def test_no_error_page_shows_the_password(server: brokers.Postgres, server_answers: bool) -> None:
    """Nor mails to ADMINS and the like, which show the variables of each frame of each error."""
    if server_answers:
        layer = django_layer(f"postgresql://{brokers.USER}:{SECRET}@127.0.0.1:{server.server.port}/postgres")
    else:
        layer = django_layer(f"postgresql://{brokers.USER}:{SECRET}@127.0.0.1:{free_port()}/postgres")
    try:
        await layer.group_send("room", {"type": "x"})
    except ListenerClosed as error:
        shown = repr(variables_of(error))
        assert "127.0.0.1" in shown
        assert SECRET not in shown
    else:
        pytest.fail("it has connected")
    await layer.close()


def variables_of(error: BaseException | None) -> list[tuple[str, str]]:
    """Return the errors of a chain, and what the variables of their frames look like."""
    found = []
    while error is not None:
        found.append((type(error).__name__, str(error)))
        for frame, _ in walk_tb(error.__traceback__):
            found += [(name, repr(value)) for name, value in frame.f_locals.items()]
        error = error.__cause__ or error.__context__
    return found


def django_layer(url: str) -> AnyioChannelLayer:
    """Return a layer from a frame that is over."""
    return AnyioChannelLayer(url=url, publish_timeout=0.5)


async def test_an_unexpected_error_has_no_frames_of_asyncpg(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(**arguments: Any) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(asyncpg, "connect", broken)
    with pytest.raises(ZeroDivisionError, match="by accident") as caught:
        await Address("postgresql://u:secret@h", {}, layer_options=frozenset()).open(
            lambda *_: None, cache_statements=True
        )
    assert "broken" not in [frame.name for frame in extract_tb(caught.value.__traceback__)]


async def test_credentials_are_asked_for_each_connection(server: brokers.Postgres) -> None:
    server.ask("DROP ROLE IF EXISTS rotating")
    server.ask("CREATE ROLE rotating LOGIN")
    asked = 0

    async def credentials() -> tuple[str, str]:
        nonlocal asked
        asked += 1
        await run_sync(server.ask, f"ALTER ROLE rotating PASSWORD 'token {asked}'")
        return "rotating", f"token {asked}"

    async def unavailable() -> tuple[str, str]:
        raise LookupError("the vault is sealed")

    address = Address(server.url, {}, layer_options=frozenset(), credentials=credentials)
    for number in (1, 2):
        connection = await address.open(lambda *_: None, cache_statements=True)
        assert (asked, await connection.fetchval("SELECT current_user")) == (number, "rotating")
        await connection.close()
    layer = PostgreSQLChannelLayer(server.url, credentials=unavailable)
    with pytest.raises(ListenerClosed, match="credentials cannot be fetched: LookupError: the vault is sealed"):
        await layer.connect()


async def refusal(url: str, **options: Any) -> str:
    """Return the error of a layer that cannot connect."""
    layer = PostgreSQLChannelLayer(url, **options)
    with pytest.raises(ListenerClosed) as caught:
        await layer.connect()
    text = str(caught.value)
    assert layer.address in text
    assert ".." not in text.replace("...", "")
    assert text.count("Check that the server runs") == 0
    return text


async def test_what_a_server_refuses_has_its_own_cure(database: brokers.Postgres) -> None:
    name = database.database
    database.ask(f"CREATE ROLE {name}_staff NOLOGIN PASSWORD 'x'")
    database.ask(f"CREATE ROLE {name}_one LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    staff = database.url.replace("postgres:correct%20horse", f"{name}_staff:x")
    one = database.url.replace("postgres:correct%20horse", f"{name}_one:x")
    try:
        assert "Create the role with LOGIN" in await refusal(staff)
        assert "raise the CONNECTION LIMIT" in await refusal(one)
        database.ask(f"ALTER ROLE {name}_one CONNECTION LIMIT -1")
        database.ask(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        assert "GRANT CONNECT ON DATABASE" in await refusal(one)
        for role in ("missing", "none of them"):
            text = await refusal(database.url, server_settings={"role": role})
            assert "Correct the role in server_settings" in text
        for setting in ("no_such_setting", "work_mem"):
            text = await refusal(database.url, server_settings={setting: "much"})
            assert "Correct server_settings" in text
        text = await refusal(database.url + "?sslmode=require")
        assert "rejected SSL upgrade. The server does not speak TLS" in text
    finally:
        for role in ("staff", "one"):
            database.ask(f"DROP ROLE {name}_{role}")


async def test_a_missing_role_without_a_password(own_server: brokers.Postgres) -> None:
    rules = own_server.server.folder / "data" / "pg_hba.conf"
    url = f"postgresql://nobody@127.0.0.1:{own_server.server.port}/postgres"
    rules.write_text("host all nobody 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 md5\n")
    own_server.ask("SELECT pg_reload_conf()")
    with anyio.fail_after(30):
        while "does not exist. Create the role with LOGIN" not in await refusal(url):
            pass
    assert "or allow this in its pg_hba.conf" in await refusal(url.replace("nobody", "somebody"))


async def test_what_is_no_server_or_no_postgresql() -> None:
    layer = PostgreSQLChannelLayer(f"postgresql://127.0.0.1:{free_port()}/d")
    with pytest.raises(ListenerClosed, match="Check that the server runs and that the address is right"):
        await layer.connect()

    async def hang_up(stream: SocketStream) -> None:
        await stream.receive()
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang_up)
        port = listener.extra(SocketAttribute.local_port)
        for mode in ("disable", "require"):
            with pytest.raises(ListenerClosed, match="Check that a PostgreSQL server is|Check that the server"):
                await PostgreSQLChannelLayer(f"postgresql://127.0.0.1:{port}/d?sslmode={mode}").connect()
        tasks.cancel_scope.cancel()


async def test_a_missing_certificate_of_the_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = await refusal(f"postgresql://127.0.0.1:{free_port()}/d?sslmode=verify-full")
    assert "root.crt" in text


async def test_pgbouncers_refusals(database: brokers.Postgres) -> None:
    with brokers.pgbouncer(database, "session") as pooler:
        wrong = pooler.url.replace("correct%20horse", "wrong")
        assert "Correct the user name and the password" in await refusal(wrong)
        text = await refusal(pooler.url, server_settings={"work_mem": "1MB"})
        assert "ignore_startup_parameters" in text
        assert "Create the database" in await refusal(pooler.url.replace(database.database, "missing"))
        assert "does not speak TLS" in await refusal(pooler.url + "?sslmode=require")


async def test_a_missing_database_is_named(server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**server.connection, "database": "missing"})
    with pytest.raises(ListenerClosed, match=r'"missing" does not exist.*Create the database'):
        await layer.connect()


async def test_tls_that_the_server_requires() -> None:
    protected = brokers.protected()
    with running(protected.server):
        with pytest.raises(ListenerClosed, match=r"The server requires TLS: add \?sslmode=require"):
            await PostgreSQLChannelLayer(protected.url + "?sslmode=disable").connect()
        authority = protected.server.folder / "ca.crt"
        text = await refusal(f"{protected.url}?sslmode=verify-full&sslrootcert={Path(__file__)}")
        assert "sslrootcert" in text or "certificate" in text
        other = brokers.protected().server.folder / "ca.crt"
        text = await refusal(f"{protected.url}?sslmode=verify-full&sslrootcert={other}")
        assert "Check that sslrootcert is the authority" in text
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
