"""The master is found through Sentinels, and found again when it is another one."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, ListenerClosed, RedisPubSubChannelLayer
from tests.support.brokers import redis as brokers
from tests.support.flow import flow

from .conftest import becomes_true

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def sentinels() -> Iterator[brokers.SentinelSet]:
    with brokers.sentinel_set() as made:
        yield made


def layer_of(sentinels: brokers.SentinelSet) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(sentinels.url, probe_interval=1.0)


async def test_topics_and_queues(sentinels: brokers.SentinelSet) -> None:
    layer = layer_of(sentinels)
    assert layer.address == sentinels.url
    async with Channel(layer) as channel, channel.subscribe("room") as subscriber:
        await channel.publish("room", 1)
        assert (await anext(subscriber)).message == 1
        await channel.queues.put("jobs", b"x", capacity=10, expiry=60)
        assert await channel.queues.take("jobs") == b"x"


async def test_a_name_that_the_sentinels_do_not_know(sentinels: brokers.SentinelSet) -> None:
    layer = RedisPubSubChannelLayer(sentinels.url.replace("mymaster", "nobody"))
    with pytest.raises(ListenerClosed, match=r"nobody.*Check the master's name, and that the Sentinels watch it"):
        await layer.connect()


async def test_sentinels_that_do_not_answer(sentinels: brokers.SentinelSet) -> None:
    layer = RedisPubSubChannelLayer("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster")
    with pytest.raises(ListenerClosed, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2/mymaster"):
        await layer.connect()


# ---- how to log in at a Sentinel, and what it announces ------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[brokers.Redis, brokers.Redis]]:
    """A master and a Sentinel that want TLS and a password."""
    master = brokers.protected()
    sentinel = brokers.protected_sentinel_of(master)
    with brokers.running(master, sentinel):
        yield master, sentinel


def url_of(master: brokers.Redis, sentinel: brokers.Redis, host: str = "127.0.0.1") -> str:
    authority = f"?ssl_ca_certs={master.connection['ssl_ca_certs']}" if "ssl_ca_certs" in master.connection else ""
    scheme, password = ("rediss", ":correct%20horse@") if authority else ("redis", "")
    return f"{scheme}+sentinel://{password}{host}:{sentinel.server.port}/mymaster{authority}"


async def works(layer: RedisPubSubChannelLayer) -> None:
    await layer.connect()
    assert (await layer.publish("room", b"x")).receivers == 0
    await layer.disconnect()


async def test_a_private_authority_holds_for_the_sentinels_too(guarded: tuple[brokers.Redis, brokers.Redis]) -> None:
    await works(RedisPubSubChannelLayer(url_of(*guarded), sentinel_kwargs={"password": brokers.PASSWORD}))


async def test_the_name_of_a_sentinel_is_checked(guarded: tuple[brokers.Redis, brokers.Redis]) -> None:
    url = url_of(*guarded, host="127.0.0.2")
    with pytest.raises(ListenerClosed, match=r"mismatch.*Write the host as the certificate names it"):
        await RedisPubSubChannelLayer(url, sentinel_kwargs={"password": brokers.PASSWORD}).connect()


@pytest.mark.parametrize(("password", "word"), [("wrong", "WRONGPASS"), (None, "NOAUTH")])
async def test_a_wrong_password_of_a_sentinel_says_so(
    guarded: tuple[brokers.Redis, brokers.Redis], password: str | None, word: str
) -> None:
    layer = RedisPubSubChannelLayer(url_of(*guarded), sentinel_kwargs={"password": password})
    with pytest.raises(ListenerClosed, match=rf"{word} .*\(the Sentinels' own are in sentinel_kwargs\)$"):
        await layer.connect()


async def test_a_sentinel_without_tls_that_sees_its_master_down(guarded: tuple[brokers.Redis, brokers.Redis]) -> None:
    [master, _] = guarded
    sentinel = brokers.sentinel_of(master)  # it speaks no TLS with its master, and so is not answered
    with brokers.running(sentinel):
        layer = RedisPubSubChannelLayer(url_of(master, sentinel), sentinel_kwargs={"ssl": False})
        with pytest.raises(ListenerClosed, match="the master mymaster is down$"):
            with anyio.fail_after(30):
                while True:
                    await works(layer)


async def test_an_announced_address_is_mapped_to_a_reachable_one(server: brokers.Redis) -> None:
    """As where master and Sentinels are behind NAT: the announced server is not the one that shall be reached."""
    announced = brokers.plain("valkey")
    sentinel = brokers.sentinel_of(announced)
    with brokers.running(announced, sentinel):
        address = f"127.0.0.1:{announced.server.port}"
        remap = {address: f"127.0.0.1:{server.server.port}"}
        layer = RedisPubSubChannelLayer(url_of(announced, sentinel), address_remap=remap, client_name="remapped")
        await layer.connect()
        assert [client["name"] for client in server.ask("CLIENT LIST")].count("remapped") == 2
        await layer.disconnect()


async def test_a_url_for_another_kind_of_server_is_named(sentinels: brokers.SentinelSet, server: brokers.Redis) -> None:
    port = sentinels.sentinels[0].server.port
    with pytest.raises(ListenerClosed, match=rf"is a Sentinel: write redis\+sentinel://127\.0\.0\.1:{port}/mymaster"):
        await RedisPubSubChannelLayer(f"redis://127.0.0.1:{port}").connect()
    with pytest.raises(ListenerClosed, match=rf"It is no Sentinel: write {server.url}/0 for it"):
        await RedisPubSubChannelLayer(f"redis+sentinel://127.0.0.1:{server.server.port}/mymaster").connect()


# ---- failover ------------------------------------------------------------------------------------------------------


async def test_a_planned_failover(sentinels: brokers.SentinelSet) -> None:
    master = sentinels.master()
    async with flow(lambda: layer_of(sentinels)) as going:
        sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", sentinels.service)
        new = await run_sync(sentinels.wait_for_other_master, master)
        await becomes_true(lambda: new.ask("PUBSUB NUMSUB", "numbers")[0][1] == 2)
        await going.go_on(seconds=20)
    assert len(going.gaps) >= 2


async def test_the_master_is_killed(sentinels: brokers.SentinelSet) -> None:
    master = sentinels.master()
    async with flow(lambda: layer_of(sentinels), publish_timeout=20) as going:
        await going.kill(master)
        await run_sync(sentinels.wait_for_other_master, master)
        await going.go_on(seconds=20)
    assert going.lost() == [set(), set()]
    assert len(going.gaps) == 2
    await run_sync(master.server.start)
