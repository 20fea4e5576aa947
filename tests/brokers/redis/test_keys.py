"""Names of keys and channels, and the slots that they belong to."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from django_anyio_channels.brokers.redis.keys import (
    base_key,
    bound_groups_key,
    companion_key,
    hash_tag_for_slot,
    key_slot,
)
from tests.brokers.redis.clusters import PLENTY
from tests.brokers.redis.conftest import Connect, becomes_true, publish
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio


NAMES = ["asgi:g:room", "{a}b", "a{b}c", "{}x", "a}b", "a}b{c", "{{b}}", "{a}", "a{b", "naïve Ω", ""]


@pytest.mark.parametrize("name", NAMES)
def test_slots_are_those_of_the_server(cluster: brokers.Cluster, name: str) -> None:
    slot = cluster.masters[0].ask("CLUSTER", "KEYSLOT", name)
    assert key_slot(name.encode()) == slot
    assert key_slot(companion_key(name.encode(), "messages")) == slot


def test_what_is_beside_one_name_is_beside_no_other() -> None:
    names = [name.encode() for name in NAMES]
    names += [companion_key(name, what)[: -len(what) - 1] for name in names for what in ("groups", "")]
    names += [name + b"|~" for name in names]
    assert len({companion_key(name, "groups") for name in names}) == len(set(names))
    for name in names:
        assert base_key(bound_groups_key(name)) == name
        for other in (name, companion_key(name, "waiting")):
            assert bound_groups_key(base_key(other)) != other


def test_tags_lead_to_their_slots() -> None:
    for slot in (0, 1, 5461, 16383):
        assert key_slot(b"anything{%b}" % hash_tag_for_slot(slot)) == slot


@pytest.mark.parametrize("name", NAMES[:-1])
async def test_queues_of_any_name(cluster: brokers.Cluster, connect: Connect, name: str) -> None:
    reader, sender = await connect(cluster.url), await connect(cluster.url)
    queue = f"{name}:jobs"
    await sender.bind("room", queue, lifetime=60, **PLENTY)
    with anyio.fail_after(30):
        taking = asyncio.ensure_future(reader.take(queue))
        owner = cluster.owner(key_slot(queue.encode()))
        await becomes_true(lambda: owner.ask("LLEN", companion_key(queue.encode(), "waiting").decode()))
        await publish(sender, "room", b"1")
        assert await taking == b"1"
    await sender.put(queue, b"2", **PLENTY)
    await sender.purge(name)
    assert [server.ask("KEYS", "*jobs*|groups") for server in cluster.masters] == [[], [], []]
    await sender.put(queue, b"3", **PLENTY)
    with anyio.fail_after(30):
        assert await reader.take(queue) == b"3"
