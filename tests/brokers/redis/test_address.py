"""The ways to a server: addresses, what goes with them, and what is said about those that cannot be right."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from django_anyio_channels import Channel, ListenerClosed, RedisPubSubChannelLayer
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import free_port
from tests.support.programs import failing

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio


async def works(layer: RedisPubSubChannelLayer) -> None:
    """A message goes round, and a job."""
    with anyio.fail_after(30):
        await layer.subscribe("room")
        assert (await layer.publish("room", b"hello")).receivers == 1
        assert (await layer.next_published()).message == b"hello"
        await layer.put("jobs", b"work", capacity=10, expiry=60)
        assert await layer.take("jobs") == b"work"


# ---- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protected() -> Iterator[brokers.Redis]:
    made = brokers.protected("--bind", "127.0.0.1", "127.0.0.2")
    with brokers.running(made):
        yield made


def without_authority(server: brokers.Redis) -> str:
    return server.url.partition("?")[0]


async def test_tls_with_its_own_authority_and_a_password(protected: brokers.Redis, connect: Connect) -> None:
    layer = await connect(protected.url)
    assert layer.address == f"rediss://127.0.0.1:{protected.server.port}/0"
    await works(layer)


async def test_tls_by_arguments(protected: brokers.Redis) -> None:
    layer = RedisPubSubChannelLayer(
        host="127.0.0.1",
        port=protected.server.port,
        ssl=True,
        ssl_ca_certs=protected.connection["ssl_ca_certs"],
        password=brokers.PASSWORD,
    )
    await layer.connect()
    await works(layer)
    await layer.disconnect()


async def test_an_unknown_authority_is_refused(protected: brokers.Redis) -> None:
    with pytest.raises(ListenerClosed, match=r"CERTIFICATE_VERIFY_FAILED.*ssl_ca_certs") as caught:
        await RedisPubSubChannelLayer(without_authority(protected)).connect()
    assert "horse" not in str(caught.value)


async def test_a_certificate_for_another_host_is_refused(protected: brokers.Redis) -> None:
    url = protected.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(
        ListenerClosed, match=r"mismatch.* '127\.0\.0\.2'\. Write the host as the certificate names it$"
    ):
        await RedisPubSubChannelLayer(url).connect()
    for unchecked in (f"{url}&ssl_check_hostname=false", f"{url}&ssl_cert_reqs=none"):
        layer = RedisPubSubChannelLayer(unchecked)
        await layer.connect()
        await layer.disconnect()


async def test_tls_where_the_server_speaks_none_and_the_reverse(
    protected: brokers.Redis, server: brokers.Redis
) -> None:
    secure = RedisPubSubChannelLayer(server.url.replace("redis://", "rediss://"), socket_connect_timeout=0.5)
    with pytest.raises(
        ListenerClosed, match=r"within 0\.5 s\. Check .*; if it does not use TLS on this port, write redis://$"
    ):
        await secure.connect()
    with pytest.raises(ListenerClosed, match=r"connection .*\. If it uses TLS on this port, write rediss://$"):
        await RedisPubSubChannelLayer(f"redis://127.0.0.1:{protected.server.port}").connect()


async def test_options_of_tls_that_cannot_be_used_are_refused_when_the_layer_is_made(tmp_path: Path) -> None:
    broken = tmp_path / "ca.crt"
    broken.write_text("no certificate")
    key = {"ssl_certfile": str(broken), "ssl_keyfile": str(broken)}
    for options in ({"ssl_ca_certs": str(broken)}, key, {"ssl_min_version": 7}):
        with pytest.raises(ValueError, match=r"^The options cannot be used: .*[^.]$"):
            RedisPubSubChannelLayer("rediss://:secret@h", **options)


async def test_a_message_of_a_megabyte_over_tls(protected: brokers.Redis, connect: Connect) -> None:
    layer = await connect(protected.url)
    await layer.subscribe("room")
    await layer.publish("room", b"x" * 1_000_000)
    with anyio.fail_after(30):
        assert (await layer.next_published()).message == b"x" * 1_000_000


# ---- secrets -----------------------------------------------------------------------------------------------------


class _Vault(CredentialProvider):
    """Where credentials come from, when it is away."""

    async def get_credentials_async(self) -> tuple[str, str]:
        token = "hunter2"
        raise RuntimeError(f"the vault does not take a token of {len(token)} characters")


async def report_on(layer: RedisPubSubChannelLayer) -> str:
    """Fail to connect, and return what Django's mails to ADMINS and Sentry show: each frame with its variables."""
    with pytest.raises(ListenerClosed) as caught:
        async with Channel(layer, publish_timeout=0.3) as channel:
            await channel.publish("room", 1)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    return "".join(report.format())


SECRET_OPTIONS: list[dict[str, Any]] = [
    {"url": "redis://me:hunter2@127.0.0.1:{port}"},
    {"url": "redis://:hunter2@127.0.0.1:1"},
    {"url": "redis://127.0.0.1:{port}", "credential_provider": _Vault()},
    {"url": "rediss://:hunter2@127.0.0.1:{port}", "socket_connect_timeout": 0.2},
    {"url": "redis+cluster://:hunter2@127.0.0.1:1,127.0.0.1:{port}"},
    {"url": "redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/m", "sentinel_kwargs": {"password": "hunter2"}},
    {"url": "unix://:hunter2@/no/such/socket"},
]


@pytest.mark.parametrize("options", SECRET_OPTIONS, ids=lambda options: options["url"].partition(":")[0])
async def test_no_password_is_in_a_report_of_an_error(server: brokers.Redis, options: dict[str, Any]) -> None:
    url = options["url"].format(port=server.server.port)
    report = await report_on(RedisPubSubChannelLayer(**{**options, "url": url}))
    assert "hunter2" not in report
    assert ".." not in report.splitlines()[-1]


# ---- what goes with an address -----------------------------------------------------------------------------------


async def test_a_socket_in_the_file_system(connect: Connect) -> None:
    made = brokers.unix()
    with brokers.running(made):
        layer = await connect(made.url)
        assert layer.address == made.url
        await works(layer)
        await layer.disconnect()
        by_argument = RedisPubSubChannelLayer(unix_socket_path=made.url.removeprefix("unix://").partition("?")[0])
        await by_argument.connect()
        await works(by_argument)
        await by_argument.disconnect()


@pytest.mark.parametrize("kind", ["", "+cluster", "+sentinel"])
def test_valkey_means_the_same_as_redis(kind: str) -> None:
    for name, scheme in (("valkey", "redis"), ("valkeys", "rediss")):
        path = "/mymaster" if "sentinel" in kind else ""
        made, expected = (RedisPubSubChannelLayer(f"{each}{kind}://h{path}").address for each in (name, scheme))
        assert made == expected


async def test_database_name_of_the_client_and_no_keepalive(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(f"{server.url}/3", client_name="our-node", socket_keepalive=False)
    assert layer.address == f"{server.url}/3"
    assert [client["name"] for client in server.ask("CLIENT LIST") if client["db"] == "3"] == ["our-node"] * 2
    await layer.put("jobs", b"x", capacity=10, expiry=60)
    assert server.ask("KEYS", "*") == []
    with server.client(db=3) as client:
        assert client.keys() == ["jobs"]


async def test_keepalive_is_set_where_it_is_asked_for(server: brokers.Redis, connect: Connect) -> None:
    options = {socket.TCP_KEEPIDLE: 7}
    layer = await connect(server.url, socket_keepalive=True, socket_keepalive_options=options)
    await works(layer)


async def test_a_provider_of_credentials(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "somebody", "on", ">secret", "+@all", "~*", "&*")
    provider = UsernamePasswordCredentialProvider("somebody", "secret")
    await works(await connect(server.url, credential_provider=provider))


async def test_what_means_nothing_here_is_accepted(server: brokers.Redis, connect: Connect) -> None:
    await works(await connect(server.url, max_connections=100, decode_responses=True, retry_on_timeout=True))


async def test_a_database_that_the_server_lacks() -> None:
    made = brokers.plain("valkey", "--databases", "2")
    with brokers.running(made):
        with pytest.raises(ListenerClosed, match=r"DB index is out of range.*Choose another database"):
            await RedisPubSubChannelLayer(f"{made.url}/5").connect()


# ---- what cannot be right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pasword": "x"}, "RedisPubSubChannelLayer has no option 'pasword'. Did you mean 'password'?"),
        ({"probe_intervall": 1}, "has no option 'probe_intervall'. Did you mean 'probe_interval'?"),
        ({"qqqqqqqqqqqqqqqq": 1}, "has no option 'qqqqqqqqqqqqqqqq'. Its options are auto_close"),
        ({"path": "/tmp/socket", "ssl_ca_certs": __file__}, "has no option 'ssl_ca_certs'"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence.replace("?", r"\?")):
        RedisPubSubChannelLayer(**options)


def test_sentinels_need_the_name_of_the_master() -> None:
    with pytest.raises(ValueError, match=r"'redis\+sentinel://h:26379/' does not name the master") as caught:
        RedisPubSubChannelLayer("redis+sentinel://:secret@h:26379/?db=1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://one,two:1234/name/2", "redis+sentinel://one:26379,two:1234/name/2"),
        ("rediss+sentinel://u:p@[::1],[::2]:5/name", "rediss+sentinel://::1:26379,::2:5/name/0"),
        ("redis://u:p@h", "redis://h:6379/0"),
    ],
)
def test_how_an_address_is_shown(url: str, shown: str) -> None:
    assert RedisPubSubChannelLayer(url).address == shown


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    silent = brokers.plain("valkey")
    with brokers.running(silent):
        silent.server.freeze()
        layer = RedisPubSubChannelLayer(silent.url, socket_connect_timeout=1.0)
        with pytest.raises(ListenerClosed, match=r"no answer within 1 s"):
            await layer.connect()
        silent.server.thaw()
        await layer.connect()
        await works(layer)
        await layer.disconnect()


async def test_disconnecting_ends_an_attempt_to_connect(own_server: brokers.Redis) -> None:
    own_server.server.freeze()
    layer = RedisPubSubChannelLayer(own_server.url, socket_connect_timeout=60)
    ended: list[str] = []

    async def fails(verb: str, sentence: str) -> None:
        with pytest.raises(ListenerClosed, match=sentence):
            await getattr(layer, verb)()
        ended.append(verb)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails, "connect", "disconnected while it connected")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ListenerClosed, match="is not connected yet"):
                await layer.publish("room", b"too early")
            tasks.start_soon(fails, "next_published", "disconnected")
            await anyio.wait_all_tasks_blocked()
            await layer.disconnect()
    assert sorted(ended) == ["connect", "next_published"]
    own_server.server.thaw()
    await layer.connect()
    await works(layer)
    await layer.disconnect()


async def test_a_cancelled_attempt_leaves_nothing_open(own_server: brokers.Redis) -> None:
    own_server.server.freeze()
    layer = RedisPubSubChannelLayer(own_server.url)
    with anyio.move_on_after(0.1):
        await layer.connect()
    own_server.server.thaw()
    with pytest.raises(ListenerClosed, match="is not connected"):
        await layer.subscribe("room")
    await becomes_true(lambda: len(own_server.ask("CLIENT LIST")) == 1)  # only the one that asks


async def test_a_layer_that_was_never_connected_says_so() -> None:
    layer = RedisPubSubChannelLayer(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(ListenerClosed, match=r"is not connected; use the layer through a Channel, or connect\(\) it"):
        await layer.publish("room", b"x")


@pytest.mark.usefixtures("measured_programs")
@pytest.mark.parametrize("package", ["redis", "hiredis"])
def test_a_missing_driver_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from django_anyio_channels import RedisPubSubChannelLayer"
    assert failing(program) == (
        "django_anyio_channels.core.exceptions.MissingDriver: "
        "Redis needs redis-py and hiredis: pip install django-anyio-channels[redis]"
    )
