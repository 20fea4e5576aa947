"""What the doctor finds at servers that are set up badly, and at those where it may not ask."""

from __future__ import annotations

from collections.abc import Iterator

import hiredis
import pytest

from django_anyio_channels import RedisPubSubChannelLayer, RedisStreamsChannelLayer
from django_anyio_channels.brokers.redis import doctor
from django_anyio_channels.core.inspection import Finding
from tests.brokers.redis.conftest import Connect
from tests.brokers.redis.test_permissions import grant
from tests.support.brokers import redis as brokers
from tests.support.layers import connecting

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LARGEST = 4 * MIB
BAD = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru", "--maxclients", "4")
SMALL_BUFFERS = ("--client-output-buffer-limit", "pubsub 1mb 512kb 60")


def texts(findings: list[Finding], level: str) -> list[str]:
    return [each.text for each in findings if each.level == level]


def is_clean(server: brokers.Redis) -> bool:
    """Whether nothing is left of the keys that were tried."""
    return bool(server.ask("DBSIZE") == 0)


@pytest.fixture(scope="module")
def badly_set_up() -> Iterator[brokers.Redis]:
    made = brokers.plain("redis", *BAD, *SMALL_BUFFERS)
    with brokers.running(made):
        yield made


async def test_a_server_that_is_set_up_badly(badly_set_up: brokers.Redis, connect: Connect) -> None:
    address = f"redis://127.0.0.1:{badly_set_up.server.port}/0"
    with badly_set_up.client() as one, badly_set_up.client() as other:
        one.ping()
        other.ping()
        found = await (await connect(badly_set_up.url)).diagnose(LARGEST)
    assert texts(found, "warning") == [
        f"{address} evicts keys when its memory is full (maxmemory-policy allkeys-lru), and with them messages",
        f"{address} has 4 of 4 connections; each node takes two",
        f"{address} cuts a subscriber off that is 0 MiB behind, and a message may have 4 MiB",
    ]
    assert not texts(found, "error")


async def test_nothing_is_left_behind(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, scope="asgi:")
    assert not texts(await layer.diagnose(LARGEST), "error")
    assert is_clean(server)


async def test_histories_want_a_log_on_disk(server: brokers.Redis) -> None:
    async with connecting(RedisStreamsChannelLayer) as connect:
        layer = await connect(brokers.with_streams(server.url))
        [warning] = texts(await layer.diagnose(LARGEST), "warning")
        assert warning.endswith("keeps no log of its data, so a restart loses histories and acknowledged jobs")
        server.ask("CONFIG", "SET", "appendonly", "yes")
        try:
            found = await layer.diagnose(LARGEST)
        finally:
            server.ask("CONFIG", "SET", "appendonly", "no")
        assert not texts(found, "warning")
        assert any(text.endswith("keeps its data on disk (appendonly)") for text in texts(found, "ok"))
    assert is_clean(server)


@pytest.mark.parametrize("kinds", [[], ["streams"]], ids=str)
async def test_a_user_with_the_documented_rights_lacks_none(server: brokers.Redis, kinds: list[str]) -> None:
    """And may not ask how the server is set up, which is no error."""
    url = server.url.replace("://", f"://{grant(server, *kinds)}")
    kind = RedisStreamsChannelLayer if kinds else RedisPubSubChannelLayer
    layer = kind(brokers.with_streams(url) if kinds else url)
    layer.set_scope("asgi:")
    await layer.connect()
    found = await layer.diagnose(LARGEST)
    await layer.disconnect()
    assert not texts(found, "error")
    first, second = texts(found, "unknown")
    assert "does not say its version, memory, persistence and connections: NOPERM" in first
    assert "does not say how much it keeps for a slow subscriber: NOPERM" in second


async def test_rights_that_are_missing_are_named(server: brokers.Redis, connect: Connect) -> None:
    grant(server)
    less = ("-lindex", "-time", "-hset", "-del", "resetchannels", "&anyio-channels:nodes:*")
    server.ask("ACL", "SETUSER", "django", *less)
    layer = await connect(server.url.replace("://", "://django:password@"), scope="asgi:")
    found = await layer.diagnose(LARGEST)
    [error] = [each for each in found if each.level == "error"]
    assert error.text.endswith(" lacks rights: +hset +lindex +time +del &prefix*")
    assert error.cure.startswith("Run `ACL SETUSER user +hset +lindex +time +del &prefix*`")
    assert [each.cure for each in found if "what time it is" in each.text] == ["Allow +time"]


async def test_each_master_of_a_cluster_is_asked(cluster: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(cluster.url, scope="asgi:")
    found = await layer.diagnose(LARGEST)
    assert not texts(found, "error")
    without_replica = [text for text in texts(found, "warning") if "has no replica" in text]
    assert len(without_replica) == 3
    assert len({text.partition(" ")[0] for text in without_replica}) == 3


async def test_a_cluster_of_two_masters_cannot_elect(growing: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(growing.url)
    warnings = texts(await layer.diagnose(LARGEST), "warning")
    assert warnings[-1] == f"{layer.address} has 2 masters, which cannot elect the successor of one that fails"


def from_info(clustered: bool = False, **info: str) -> dict[str, list[str]]:
    found = list(doctor._from_info("it", {"redis_version": "7.2.4", **info}, clustered=clustered, streams=False))
    assert all(each.cure for each in found if each.level in ("warning", "error"))
    return {level: texts(found, level) for level in ("ok", "unknown", "warning", "error")}


def test_versions() -> None:
    assert "it is Redis 7.2.4" in from_info()["ok"]
    assert "it is Valkey 9.1.0" in from_info(valkey_version="9.1.0")["ok"]
    assert from_info(redis_version="6.0.9")["error"] == ["it is Redis 6.0.9, which is too old"]
    assert from_info(redis_version="6.2.14")["error"] == []
    assert from_info(redis_version="6.2.14", clustered=True)["error"] == ["it is Redis 6.2.14, which is too old"]
    assert doctor._version("it", {}, (6, 2)) == Finding("unknown", "it does not say which version it is")


def test_memory_and_disk() -> None:
    assert "it does not say what it evicts when its memory is full" in from_info()["unknown"]
    assert "it does not say whether it keeps its data on disk" in from_info()["unknown"]
    assert "it evicts nothing" in from_info(maxmemory_policy="noeviction", maxmemory="100")["ok"]
    assert "it evicts nothing" in from_info(maxmemory_policy="allkeys-lru", maxmemory="0")["ok"]
    full = from_info(used_memory=str(95 * MIB), maxmemory=str(100 * MIB), maxmemory_policy="noeviction")
    assert full["warning"] == ["it uses 95 of 100 MiB of its memory"]
    for failed in (from_info(rdb_last_bgsave_status="err"), from_info(aof_last_write_status="err")):
        assert failed["error"] == ["it failed to write its data to disk, and may refuse to change it"]


def test_clients_that_were_cut_off() -> None:
    cut_off = from_info(client_output_buffer_limit_disconnections="3")
    assert cut_off["warning"] == ["it has cut off 3 clients that read too slowly"]


def test_a_replica_is_seen() -> None:
    assert from_info(clustered=True, connected_slaves="1")["warning"] == []


@pytest.mark.parametrize(
    ("reply", "level"),
    [
        ([], "unknown"),
        (hiredis.ReplyError("NOPERM this user may not."), "unknown"),
        ([b"client-output-buffer-limit", b"normal 0 0 0"], "ok"),
        ([b"client-output-buffer-limit", b"normal 0 0 0 pubsub 0 0 0"], "ok"),
        ([b"client-output-buffer-limit", b"pubsub 33554432 8388608 60"], "ok"),
        ([b"client-output-buffer-limit", b"pubsub 33554432 1048576 60"], "warning"),
    ],
    ids=str,
)
def test_buffers(reply: object, level: str) -> None:
    assert doctor._buffers("it", reply, LARGEST).level == level


@pytest.mark.parametrize(
    ("address", "level"),
    [
        ("redis://example.com:6379/0", "warning"),
        ("rediss://example.com:6379/0", "ok"),
        ("redis://127.0.0.1:6379/0", "ok"),
        ("redis://::1:6379/0", "ok"),
        ("unix:///run/redis.sock?db=0", "ok"),
    ],
)
def test_tls(address: str, level: str) -> None:
    assert doctor._tls(address).level == level


def test_a_refusal_that_names_no_right() -> None:
    assert doctor._right("") == "+@all"
