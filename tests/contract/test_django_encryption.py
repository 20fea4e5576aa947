"""``symmetric_encryption_keys``: rotation, and payloads that cannot be read."""

from __future__ import annotations

import logging

import pytest

from django_anyio_channels import Channel

from .processes import Processes, n, numbers, rest, soon

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
