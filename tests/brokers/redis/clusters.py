"""What tests do with a Redis Cluster."""

from __future__ import annotations

import os
from typing import Any

import anyio
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.keys import key_slot
from tests.support.brokers import redis as brokers

from .conftest import becomes_true

GROUPS = [f"room-{number}" for number in range(60)]
PLENTY: dict[str, Any] = {"capacity": 10_000, "expiry": 60.0}


def calls(server: brokers.Redis, command: str) -> int:
    """How often a command was called since ``CONFIG RESETSTAT``, with success or not."""
    counted = server.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0, "rejected_calls": 0})
    return int(counted["calls"] + counted["rejected_calls"])


def shard_channels(server: brokers.Redis, beginning: str) -> set[str]:
    return set(server.ask("PUBSUB SHARDCHANNELS", f"{beginning}*"))


def other_master(cluster: brokers.Cluster, slot: int) -> brokers.Redis:
    return next(server for server in cluster.masters if server is not cluster.owner(slot))


async def move(cluster: brokers.Cluster, name: str) -> brokers.Redis:
    """Give the slot of a name to another master, which is returned."""
    slot = key_slot(name.encode())
    target = other_master(cluster, slot)
    await run_sync(cluster.move, slot, target)
    return target


async def killed(server: brokers.Redis) -> None:
    await run_sync(server.server.kill)


async def successor_of(cluster: brokers.Cluster, master: brokers.Redis) -> brokers.Redis:
    """A replica, once it is ready to take over."""

    def ready(server: brokers.Redis) -> bool:
        role, *more = server.ask("ROLE")
        return bool(role == "slave" and more[1:3] == [master.server.port, "connected"])

    await becomes_true(lambda: any(map(ready, cluster.nodes)))
    return next(each for each in cluster.nodes if ready(each))


async def hand_over(cluster: brokers.Cluster, group: str) -> brokers.Redis:
    """Have a group's master and its replica change their roles; the subscriptions have followed. Returns who was it."""
    master = cluster.owner(key_slot(group.encode()))
    successor = await successor_of(cluster, master)
    successor.ask("CLUSTER", "FAILOVER")
    await becomes_true(lambda: shard_channels(successor, group) == {group})
    return master


def layer_of(cluster: brokers.Cluster) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(cluster.url, probe_interval=1.0)


def connections(cluster: brokers.Cluster) -> list[int]:
    """How many clients each master has besides who asks."""
    return [len(server.ask("CLIENT LIST")) - 1 for server in cluster.masters]


async def halfway(cluster: brokers.Cluster, queue: str) -> brokers.Redis:
    """Begin to move a queue to another master, which is returned: its list is there, what belongs to it nowhere yet."""
    slot = key_slot(queue.encode())
    target = other_master(cluster, slot)
    source = await run_sync(cluster.begin_move, slot, target)
    source.ask("MIGRATE", "127.0.0.1", target.server.port, queue, 0, 5000)
    return target


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def works(channel: Channel) -> None:
    """Messages of some groups go round, and jobs."""
    groups = GROUPS[:12]
    with anyio.fail_after(30):
        async with channel.subscribe(*groups) as subscriber:
            for group in groups:
                assert (await channel.publish(group, group)).receivers == 1
            assert sorted([(await anext(subscriber)).message for _ in groups]) == sorted(groups)
        for number in range(12):
            await channel.queues.put(f"jobs {number}", b"%d" % number, **PLENTY)
            assert await channel.queues.take(f"jobs {number}") == b"%d" % number
