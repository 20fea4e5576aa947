"""``symmetric_encryption_keys``: rotation, payloads that cannot be read, and attacks without a key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, Channel
from django_anyio_channels.core.encryption import CLOCK_SKEW
from django_anyio_channels.django.names import BrokerNames, node_of

from .processes import Processes, n, numbers, rest, soon, until

pytestmark = [pytest.mark.anyio, pytest.mark.measured_in_memory]

ENCRYPTED_FIRST = pytest.mark.memory_only("The layer encrypts before, and decrypts after, a broker carries the bytes.")


@ENCRYPTED_FIRST
async def test_keys_can_be_rotated_without_losing_a_message(plain_processes: Processes) -> None:
    old = plain_processes.new(symmetric_encryption_keys=["old"])
    both = plain_processes.new(symmetric_encryption_keys=["new", "old"])
    new = plain_processes.new(symmetric_encryption_keys=["new"])
    for sender, reader in ((old, both), (both, new), (new, both)):
        channel = await reader.new_channel()
        await reader.group_add("g", channel)
        await sender.send(channel, n(1))
        await sender.group_send("g", n(2))
        await sender.send("normal", n(3))
        assert sorted(await numbers(reader, channel, 2)) == [1, 2]
        assert await numbers(reader, "normal", 1) == [3]
        await reader.group_discard("g", channel)


@ENCRYPTED_FIRST
@pytest.mark.parametrize("keys", [["other key"], None], ids=["another-key", "no-key"])
async def test_what_cannot_be_decrypted_is_logged_and_the_reader_goes_on(
    plain_processes: Processes, keys: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    layer = plain_processes.new(symmetric_encryption_keys=["my key"])
    stranger = plain_processes.new(symmetric_encryption_keys=keys)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_add("g", "normal")
    await stranger.send(channel, n(-1))
    await stranger.group_send("g", n(-2))
    await stranger.send("normal", n(-3))
    await layer.send(channel, n(1))
    await layer.group_send("g", n(2))
    assert sorted(await numbers(layer, channel, 2)) == [1, 2]
    assert await numbers(layer, "normal", 1) == [2]
    assert layer.statistics()["undecodable"] == 4
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 4
    assert all("Dropped a message for" in line and "symmetric_encryption_keys" in line for line in errors)


@ENCRYPTED_FIRST
async def test_an_encrypted_payload_is_nothing_to_a_reader_without_keys(plain_processes: Processes) -> None:
    layer, stranger = plain_processes.new(), plain_processes.new(symmetric_encryption_keys=["a key"])
    channel = await layer.new_channel()
    await stranger.send(channel, n(-1))
    await layer.send(channel, n(1))
    assert await numbers(layer, channel, 1) == [1]
    assert layer.statistics()["undecodable"] == 1


async def test_payloads_that_no_layer_wrote_end_nothing(processes: Processes) -> None:
    """Whoever can publish on the broker can send anything to a node's inbox, its groups and its queues."""
    layer = processes.new()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    prefix, node = processes.config["prefix"], channel.partition("!")[0].rpartition(".")[2]
    garbage = [
        b"",
        b"\n",
        b"\n\xc1",
        b"\xff\xfe",
        b"x!y\nz",
        b"\n\x80",
        b"\n\x90",
        b"\n\x81\xa2do\xa4what",
        channel.encode() + b"\n\xc1",
    ]
    async with Channel(layer._settings.make_layers()) as stranger:
        for payload in garbage:
            for topic in (f"{prefix}:i:{node}", f"{prefix}:c:nodes", f"{prefix}:g:g"):
                await stranger.publish_payload(topic, payload)
            await stranger.queues.put(f"{prefix}:q:normal", payload, capacity=100, expiry=60)
    other = processes.new()
    await soon(other.group_add("g", await other.new_channel()))
    await other.group_send("g", n(1))
    await other.send(channel, n(2))
    await other.send("normal", n(3))
    assert sorted(await numbers(layer, channel, 2)) == [1, 2]
    assert await numbers(layer, "normal", 1) == [3]
    assert await rest(layer, channel) == []


# ---- attacks -------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {"symmetric_encryption_keys": ["a key that the attacker lacks"]}


class Raw:
    """A serializer that leaves payloads as they are."""

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, payload: bytes) -> bytes:
        return payload


@dataclass
class Attacker:
    """A program that may use the broker as the processes of a project do, without their key."""

    channel: Channel
    names: BrokerNames

    def inbox(self, channel: str) -> str:
        return self.names.inbox(str(node_of(channel)))

    async def put(self, queue: str, payload: bytes) -> None:
        await self.channel.queues.put(self.names.queue(queue), payload, capacity=100, expiry=60)

    @asynccontextmanager
    async def recording(self, topic: str) -> AsyncIterator[list[bytes]]:
        """The payloads of a topic; the body ends when there is one."""
        recorded: list[bytes] = []
        async with self.channel.subscribe(topic) as subscriber:
            yield recorded
            while not (payload := (await soon(subscriber.receive())).message):
                pass  # a probe
            recorded.append(payload)


@asynccontextmanager
async def attacker_of(layer: AnyioChannelLayer) -> AsyncIterator[Attacker]:
    layers, names = layer._settings.make_layers(), layer._settings.names
    for each in layers:
        each.set_scope(names.prefix)
        each.disable_history(names.nodes)
    async with Channel(layers, serializer=Raw()) as channel:
        yield Attacker(channel, names)


def undecodable(*layers: AnyioChannelLayer) -> int:
    return sum(int(layer.statistics()["undecodable"]) for layer in layers)


async def test_a_copy_in_another_place_is_refused(plain_processes: Processes) -> None:
    sender, victim = plain_processes.new(**KEYS), plain_processes.new(**KEYS)
    mine, theirs = await sender.new_channel(), await victim.new_channel()
    await victim.group_add("admins", theirs)
    await victim.group_add("admins", "bound")
    async with attacker_of(sender) as attacker:
        names = attacker.names
        async with attacker.recording(names.group("lobby")) as of_group:
            await sender.group_send("lobby", n(-1))
        async with attacker.recording(attacker.inbox(mine)) as of_inbox:
            await sender.send(mine, n(1))
        await sender.send("other", n(-2))
        of_queue = await soon(attacker.channel.queues.take(names.queue("other")))
        for payload in (*of_group, *of_inbox, of_queue):
            await attacker.channel.publish_payload(names.group("admins"), payload)
            await attacker.channel.publish_payload(attacker.inbox(theirs), payload)
            await attacker.channel.publish_payload(names.nodes, payload)
            await attacker.put("normal", payload)
        reading = [victim.receive(channel) for channel in (theirs, "normal", "bound")]
        await sender.send("normal", n(2))
        await sender.group_send("admins", n(3))
        assert [(await soon(message))["n"] for message in reading] == [3, 2, 3]
    # The group, the inbox, two nodes, the queue; and the bound queue where the broker fills it.
    assert undecodable(sender, victim) >= 3 * 5
    assert await numbers(sender, mine, 1) == [1]
    assert await rest(victim, theirs) == await rest(sender, mine) == []


async def test_a_recorded_command_is_carried_out_once(
    plain_processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    layer = plain_processes.new(**KEYS)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    async with attacker_of(layer) as attacker:
        async with attacker.recording(attacker.names.nodes) as recorded:
            flush = asyncio.ensure_future(layer.flush())
        await until(lambda: layer.statistics()["channels"] == 0)
        flush.cancel()  # it waits for a reply of the attacker
        await layer.group_add("g", channel)
        await attacker.channel.publish_payload(attacker.names.nodes, recorded[0])
        await until(lambda: undecodable(layer))
    await layer.group_send("g", n(1))
    assert await numbers(layer, channel, 1) == [1]
    assert "it is a copy of a command that was handled" in caplog.text


async def test_a_copy_is_refused_when_it_is_old(
    plain_processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layer = plain_processes.new(**KEYS)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    settings, names = layer._settings, layer._settings.names
    assert settings.encryption is not None
    lifetime = max(settings.expiry, settings.make_layers()[0].retention)
    encoded = settings.serializer.encode(n(-1))
    with monkeypatch.context() as patch:
        now = time()
        patch.setattr("django_anyio_channels.core.encryption.time", lambda: now - lifetime - CLOCK_SKEW - 60)
        of_group = settings.encryption.encrypt(encoded, "group", names.group("g"), lifetime=lifetime)
        of_queue = settings.encryption.encrypt(encoded, "queue", names.queue("normal"), lifetime=settings.expiry)
    async with attacker_of(layer) as attacker:
        await attacker.channel.publish_payload(names.group("g"), of_group)
        await attacker.put("normal", of_queue)
        await layer.group_send("g", n(1))
        await layer.send("normal", n(2))
        assert [*await numbers(layer, channel, 1), *await numbers(layer, "normal", 1)] == [1, 2]
    assert undecodable(layer) == 2
    assert f"s old and was for {lifetime:g} s" in caplog.text
    assert f"s old and was for {settings.expiry:g} s" in caplog.text
