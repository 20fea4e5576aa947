"""The rights that docs/brokers/redis.rst tells a user of Redis to have are enough for every verb, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest
import redis

import django_anyio_channels.brokers.redis
from django_anyio_channels import AnyioChannelLayer
from tests.docs.pages import page
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio

PAGE = page("docs/brokers/redis.rst")
SOURCES = Path(django_anyio_channels.brokers.redis.__file__).parent
CLUSTER = {"asking", "cluster", "spublish", "ssubscribe", "sunsubscribe"}
NOT_GRANTED = {
    *("auth", "quit"),  # need no right
    *("select", "client", "psubscribe", "punsubscribe"),  # for whom they concern
    "sentinel",
    "config",  # what a server does not say, the doctor does not know
}


def rights(name: str) -> list[str]:
    return PAGE.code(name).split()


def grant(server: brokers.Redis, *more: str) -> str:
    """Do what the page says, and return the user and password for a URL."""
    command = [*rights("acl"), *(right for name in more for right in rights(f"acl-{name}"))]
    server.ask(*command)
    server.ask("ACL", "LOG", "RESET")
    return "django:password@"


def commands_in(files: list[Path], known: set[str]) -> set[str]:
    words = {word.lower() for file in files for word in re.findall(r"['\"]([A-Z]{3,})['\"]", file.read_text())}
    return words & known


def test_each_command_that_is_used_is_granted_and_no_other(server: brokers.Redis) -> None:
    known = set(server.ask("COMMAND LIST"))
    known -= {"info", "readonly", "type"}  # they stand in the sources as something else
    files = [file for file in SOURCES.rglob("*.*") if file.suffix in (".py", ".lua")]
    streams = [file for file in files if file.parent.name == "streams" or file.name.startswith("streams_")]
    granted = {
        name: {right[1:].partition("|")[0] for right in rights(name) if right.startswith("+")}
        for name in ("acl", "acl-streams", "acl-cluster")
    }
    used = commands_in([file for file in files if file not in streams], known)
    used |= {f"{kind}{verb}" for kind in ("", "s") for verb in ("subscribe", "unsubscribe")}
    assert granted["acl"] | granted["acl-cluster"] == used - NOT_GRANTED
    assert granted["acl-cluster"] == CLUSTER | {"pubsub"}
    assert granted["acl-streams"] == commands_in(streams, known) - granted["acl"]


@pytest.mark.parametrize(
    "command",
    [
        *(f"GET {key}" for key in ("other:q:jobs", "my-asgi:q:jobs", "{other:q:jobs}|waiting", "other")),
        "SET other:q:jobs x",
        "RPUSH my-asgi:q:jobs x",
        "PUBLISH other:g:room x",
        "PUBLISH anyio-channels:nodes:other: x",
        "SUBSCRIBE my-asgi:g:room",
        "PSUBSCRIBE *",
        *("FUNCTION FLUSH", "FUNCTION DUMP", "SCRIPT FLUSH", "FLUSHALL", "FLUSHDB", "KEYS *", "RANDOMKEY"),
        *("CONFIG GET *", "CLIENT LIST", "ACL LIST", "MONITOR", "PUBSUB CHANNELS", "SHUTDOWN"),
    ],
)
def test_a_user_with_these_rights_may_do_nothing_else(server: brokers.Redis, command: str) -> None:
    grant(server, "streams", "cluster")
    with server.client(username="django", password="password") as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())


def test_a_script_gives_no_more_rights(server: brokers.Redis) -> None:
    grant(server, "streams", "cluster")
    with server.client(username="django", password="password") as client:
        assert client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "asgi:q:jobs")
        for text, keys in (("redis.call('GET', KEYS[1])", ["other"]), ("redis.call('GET', 'other')", [])):
            with pytest.raises(redis.exceptions.RedisError, match="(?i)no ?perm|ACL failure|can't"):
                client.eval(f"return {text}", len(keys), *keys)


async def use_every_verb(url: str, *, streams: bool) -> None:
    layer, other = (
        AnyioChannelLayer(
            url=brokers.with_streams(url) if streams else url,
            acknowledged=["work"] if streams else [],
            publish_timeout=5,
        )
        for _ in range(2)
    )
    with anyio.fail_after(60):
        name = await layer.new_channel()
        for member in (name, "jobs"):
            await other.group_add("room", member)
        await other.group_send("room", {"type": "x"})
        assert await layer.receive(name) == await layer.receive("jobs") == {"type": "x"}
        for channel in ("jobs", "work", name):
            await other.send(channel, {"type": "y"})
            message = await layer.receive(channel)
            assert message == {"type": "y"}
            await layer.ack(message)
        with anyio.move_on_after(0.2):  # it waits at the server, and returns what came for it
            await layer.receive("jobs")
        await other.send("jobs", {"type": "z"})
        assert await layer.receive("jobs") == {"type": "z"}
        if streams:
            assert len(await layer.group_history("room")) == 1
            await layer.group_resume("room", await layer.new_channel(), last=1)
        for member in (name, "jobs"):
            await other.group_discard("room", member)
        await layer.flush()
        await layer.close()
        await other.close()


@pytest.mark.parametrize("kinds", [[], ["streams"]], ids=str)
@pytest.mark.parametrize("database", [0, 3])
async def test_a_user_with_these_rights_may_do_everything(
    server: brokers.Redis, kinds: list[str], database: int
) -> None:
    user = grant(server, *kinds)
    if database:
        channels = [right[1:] for right in rights("acl") if right.startswith("&")]
        server.ask("ACL", "SETUSER", "django", "+select", *(f"&@{database}@{channel}" for channel in channels))
    await use_every_verb(f"{server.url.replace('://', f'://{user}')}/{database}", streams=bool(kinds))
    assert server.ask("ACL LOG") == []


@pytest.mark.parametrize("kinds", [["cluster"], ["cluster", "streams"]], ids=str)
async def test_a_user_with_these_rights_may_do_everything_in_a_cluster(
    cluster: brokers.Cluster, kinds: list[str]
) -> None:
    users = {grant(node, *kinds) for node in cluster.nodes}
    await use_every_verb(cluster.url.replace("://", f"://{users.pop()}"), streams="streams" in kinds)
    assert [node.ask("ACL LOG") for node in cluster.nodes] == [[], [], []]
