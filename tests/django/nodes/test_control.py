"""`django.nodes.control`: commands between nodes, their replies, and forged ones."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import anyio
import msgspec
import pytest

from django_anyio_channels import AnyioChannelLayer, ListenerClosed, PublishResult
from django_anyio_channels.core.exceptions import SubscriptionRefused
from django_anyio_channels.django.messages.inbox import CONTROL, seal
from django_anyio_channels.django.names import node_of
from django_anyio_channels.django.nodes.control import Command

from ..helpers import TIME_LIMIT, all_channels_ended, layers, node_in, soon

NEEDED = {"request_id": "1", "reply_to": "0123456789abcdef"}


async def publish(sender: AnyioChannelLayer, owner: AnyioChannelLayer, message: Any) -> None:
    """Put a control message into the inbox of the owner's node."""
    node = node_in(owner)
    await sender._dispatcher.publish(node.inbox, seal(CONTROL, node.channel.encode(message)))


def test_an_error_of_another_nodes_broker_is_replied() -> None:
    async def main() -> None:
        owner, asker = layers(2)
        channel = await owner.new_channel()
        with pytest.raises(ListenerClosed, match="secret is not for you"):
            await asker.group_add("secret", channel)
        with pytest.raises(SubscriptionRefused, match="secret is not for you"):
            await owner.group_add("secret", channel)
        assert owner.statistics()["channels"] == 0

    asyncio.run(main())


def test_nodes_that_do_not_reply_are_counted() -> None:
    async def main() -> None:
        owner, asker = layers(2, publish_timeout=2.0)
        channel = await owner.new_channel()
        node_in(owner).control._handle = silence  # type: ignore[method-assign]
        with pytest.raises(ListenerClosed, match=r"0 of 1 nodes replied within 2 s; the others have ended"):
            await asker.group_add("g", channel)

    async def silence(command: Command) -> None:
        pass

    asyncio.run(main())


def test_a_command_of_another_version_is_replied_as_unknown() -> None:
    async def main() -> None:
        owner, asker = layers(2)
        channel = await owner.new_channel()
        await asker.new_channel()
        with pytest.raises(ListenerClosed, match=f"{node_of(channel)} does not support the command 'dance'"):
            await node_in(asker).control.request(node_in(owner).inbox, "dance")

    asyncio.run(main())


def test_fields_of_another_version_are_ignored() -> None:
    async def main() -> None:
        owner, other = layers(2)
        channel = await owner.new_channel()
        command = {"kind": "command", "command": "group_add", "group": "g", "channel": channel, **NEEDED, "since": 7}
        await publish(other, owner, command)
        await owner.send(channel, {"type": "n", "n": 0})
        assert await soon(owner.receive(channel)) == {"type": "n", "n": 0}
        with anyio.fail_after(TIME_LIMIT):
            while owner.statistics()["topics"] < len(["inbox", "nodes", "g"]):
                await asyncio.sleep(0)
        await owner.group_send("g", {"type": "n", "n": 1})
        assert await soon(owner.receive(channel)) == {"type": "n", "n": 1}
        assert owner.statistics()["undecodable"] == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "not a control message of this version"),
        ({"kind": "reply", "request_id": "unknown", "error": None}, "a reply to no request of this node"),
        ({"kind": "reply", "request_id": 1, "error": None}, "not a control message"),
        ({"kind": "reply", "request_id": "1"}, "not a control message"),
        ({"kind": "question"}, "not a control message"),
        ({"kind": "command", "command": "flush", "request_id": [1], "reply_to": "x"}, "not a control message"),
        ({"kind": "command", "command": ["flush"], **NEEDED}, "not a control message"),
        ({"kind": "command", "command": "flush", "request_id": "1", "reply_to": "#\0"}, "a reply to no node"),
        ({"kind": "command", "command": "group_add", "group": "g", **NEEDED}, "its channel '' is not"),
        ({"kind": "command", "command": "group_add", "group": "g", "channel": "foreign", **NEEDED}, "'foreign' is not"),
        (
            {"kind": "command", "command": "group_add", "group": "g", "channel": "x.ffffffffffffffff!y", **NEEDED},
            "its channel 'x.ffffffffffffffff!y' is not a channel of this node",
        ),
        ({"kind": "command", "command": "group_discard", "channel": 5, **NEEDED}, "not a control message"),
        ({"kind": "command", "command": "group_add", "group": ["g"], "channel": "x!y", **NEEDED}, "not a control"),
    ],
    ids=str,
)
def test_a_forged_message_is_dropped_and_disturbs_no_channel(
    message: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A channel of another node would end the sweep, and with it expiry, as soon as a prefix is read."""

    async def main() -> None:
        owner, other = layers(2, group_expiry=0.1, expiry=0.1)
        channel = await owner.new_channel()
        reading = asyncio.ensure_future(owner.receive(channel[: channel.index("!") + 1]))
        await publish(other, owner, message)
        await owner.send(channel, {"type": "after"})
        assert await soon(reading) == {"type": "after"}
        assert owner.statistics()["undecodable"] == 1
        await owner.group_add("g", channel)
        await soon(all_channels_ended(owner))

    asyncio.run(main())
    assert reason in caplog.text
    assert "Could not" not in caplog.text


@pytest.mark.parametrize("group", ["", "g\n", "a b", "#", "g" * 100, "\u4e2d"])
@pytest.mark.parametrize("command", ["group_add", "group_discard"])
def test_a_forged_command_is_about_a_group(command: str, group: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner, other = layers(2)
        channel = await owner.new_channel()
        topics = owner.statistics()["topics"]
        await publish(
            other, owner, {"kind": "command", "command": command, "group": group, "channel": channel, **NEEDED}
        )
        await owner.send(channel, {"type": "after"})
        await soon(owner.receive(channel))
        assert (owner.statistics()["undecodable"], owner.statistics()["topics"]) == (1, topics)

    asyncio.run(main())
    assert "it is about no group" in caplog.text


def test_a_command_that_cannot_be_replied_to_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        owner, other = layers(2)
        channel = await owner.new_channel()

        async def no_connection(group: str, payload: bytes, *, lifetime: float | None = None) -> PublishResult:
            raise ListenerClosed("the cable is out")

        node_in(owner).channel.publish_payload = no_connection  # type: ignore[method-assign]
        await publish(other, owner, {"kind": "command", "command": "dance", **NEEDED})
        await other.send(channel, {"type": "after"})
        assert (await soon(owner.receive(channel)))["type"] == "after"
        await asyncio.sleep(0)

    asyncio.run(main())
    assert "Could not reply to another node" in caplog.text


def test_a_late_reply_is_no_error() -> None:
    async def main() -> None:
        owner, other = layers(2)
        await owner.new_channel()
        async with node_in(owner).control._expect_replies() as (request_id, _):
            pass
        await publish(other, owner, {"kind": "reply", "request_id": request_id, "error": None})
        assert owner.statistics()["undecodable"] == 0

    asyncio.run(main())


@pytest.mark.parametrize(("keys", "copies"), [([], 0), (["a key of some length"], 1)], ids=["plain", "encrypted"])
def test_copies_of_commands_are_remembered_as_long_as_they_could_come(
    keys: list[str], copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        owner, other = layers(2, symmetric_encryption_keys=keys)
        channel = await owner.new_channel()
        await other.group_add("g", channel)
        control = node_in(owner).control
        assert len(control._handled) == 1
        [request_id] = control._handled
        control._handle = done  # type: ignore[method-assign]
        command = msgspec.msgpack.encode(Command("dance", request_id, "0123456789abcdef"))
        await other._dispatcher.publish(node_in(owner).inbox, seal(CONTROL, command))
        await owner.send(channel, {"type": "after"})
        await soon(owner.receive(channel))
        assert owner.statistics()["undecodable"] == copies
        now = monotonic()
        monkeypatch.setattr("django_anyio_channels.django.nodes.control.monotonic", lambda: now + 3600)
        control.receive(command)
        assert list(control._handled) == [request_id]

    async def done(command: Command) -> None:
        pass

    asyncio.run(main())


def test_a_node_that_closes_cancels_commands() -> None:
    async def main() -> None:
        owner, other = layers(2)
        await owner.new_channel()
        node = node_in(owner)
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def take_long(command: Command) -> None:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()

        node.control._handle = take_long  # type: ignore[method-assign]
        await publish(other, owner, {"kind": "command", "command": "wait", **NEEDED})
        await soon(begun.wait())
        await owner.close()
        await soon(cancelled.wait())

    asyncio.run(main())
