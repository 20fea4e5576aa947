"""What nodes report of themselves, and what hostile requests and reports come to."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

import msgspec
import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.core.inspection import QueueState
from django_anyio_channels.django.messages.inbox import CONTROL, seal
from django_anyio_channels.django.nodes import control, reports
from django_anyio_channels.django.nodes.control import Command, Reply
from django_anyio_channels.django.nodes.reports import Report

from ..helpers import layers, node_in, soon

VALID: dict[str, Any] = {
    "node": "0123456789abcdef",
    "process": "host:1",
    "version": "1",
    "clock": 1.0,
    "counters": {"dropped": 1},
    "oldest": 0.0,
}


def request(**changes: Any) -> bytes:
    fields = {"command": "statistics", "request_id": "1", "reply_to": "0123456789abcdef", **changes}
    return msgspec.msgpack.encode(Command(**fields))


def refusals(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def test_requests_are_limited(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever floods the nodes with small requests gets few replies; more of the cheap ones than of the others."""

    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        node = node_in(layer)
        made = []

        async def make(details: bool) -> Report:
            made.append(details)
            return await make_report(details)

        make_report = node._reporter.make
        monkeypatch.setattr(node._reporter, "make", make)
        now = monotonic()
        monkeypatch.setattr(reports, "monotonic", lambda: now)
        for details in (True, False):
            made.clear()
            now += 3600
            for number in range(100):
                sent = seal(CONTROL, request(details=details, request_id=f"{details} {number}"))
                await layer._dispatcher.publish(node.inbox, sent)
            while len(made) < (5 if details else 40):
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert made == [details] * (5 if details else 40)
        now += 0.5
        with pytest.raises(Exception, match="too often"):
            for _ in range(21):
                node._reporter.charge(False)

    asyncio.run(main())
    assert refusals(caplog, "it asks for statistics too often")


@pytest.mark.parametrize("reply_to", ["", "room", "0123456789abcdef.", "0123456789ABCDEF", "0123456789abcdef\n"])
def test_a_reply_goes_to_a_node_only(reply_to: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer, other = layers(2)
        await layer.new_channel()
        await other._dispatcher.publish(node_in(layer).inbox, seal(CONTROL, request(reply_to=reply_to)))
        assert layer.statistics()["undecodable"] == 1

    asyncio.run(main())
    assert refusals(caplog, "it asks for a reply to no node")


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "\x1b[2J"},
        {"process": "a b"},
        {"version": "x" * 51},
        {"clock": -1.0},
        {"counters": {"dropped": -1}},
        {"counters": {"dropped": 2**54}},
        {"counters": {"\x1b": 1}},
        {"counters": {f"c{number}": 1 for number in range(101)}},
        {"groups": {"a b": 1}},
        {"groups": {"a\n": 1}},
        {"groups": {f"g{number}": 1 for number in range(301)}},
        {"queues": {"q": {"length": -1}}},
        {"oldest": "long"},
    ],
    ids=str,
)
def test_a_report_that_no_node_makes_is_dropped(changes: dict[str, Any]) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        node = node_in(layer)
        async with node.control._expect_replies() as (request_id, replies):
            for forged, count in ((changes, 0), ({}, 1)):
                report = {**VALID, **forged}
                reply = {"kind": "reply", "request_id": request_id, "error": None, "report": report}
                await layer._dispatcher.publish(node.inbox, seal(CONTROL, node.channel.encode(reply)))
                assert replies.qsize() == count
        assert layer.statistics()["undecodable"] == 1

    asyncio.run(main())


def test_a_message_that_is_too_long_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        await layer._dispatcher.publish(node_in(layer).inbox, seal(CONTROL, request(group="x" * 200_000)))

    asyncio.run(main())
    assert refusals(caplog, "it is a control message of more than 131072 bytes")


def test_replies_that_are_not_read_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        node = node_in(layer)
        monkeypatch.setattr(control, "_MOST_REPLIES", 2)
        async with node.control._expect_replies() as (request_id, replies):
            for _ in range(4):
                payload = msgspec.msgpack.encode(Reply(request_id, None))
                await layer._dispatcher.publish(node.inbox, seal(CONTROL, payload))
            assert replies.qsize() == 2
        assert layer.statistics()["undecodable"] == 2

    asyncio.run(main())


def test_one_node_is_counted_once_however_often_it_replies() -> None:
    async def main() -> None:
        layer, other = layers(2)
        await other.new_channel()
        await layer.new_channel()
        node = node_in(layer)
        publish = node.control._publish

        async def publish_and_forge(topic: str, message: Any) -> int | None:
            receivers = await publish(topic, message)
            if isinstance(message, Command):
                for _ in range(5):
                    await publish(node.inbox, Reply(message.request_id, None, Report(**VALID)))
            return receivers

        node.control._publish = publish_and_forge  # type: ignore[method-assign]
        found = await layer.node_reports()
        assert len(found.by_node) == found.nodes == 2
        assert "0123456789abcdef" in found.by_node

    asyncio.run(main())


def test_a_node_of_another_version_replies_with_an_error() -> None:
    async def main() -> None:
        layer, other = layers(2)
        await other.new_channel()
        await layer.new_channel()
        stranger = node_in(other)

        async def handle(command: Command) -> None:
            await stranger.control._publish(node_in(layer).inbox, Reply(command.request_id, "what is that?"))

        stranger.control._handle = handle  # type: ignore[method-assign]
        found = await layer.node_reports()
        assert found.errors == ["what is that?"]
        assert set(found.by_node) == {node_in(layer).id}

        async def reply_nothing(command: Command) -> None:
            await stranger.control._publish(node_in(layer).inbox, Reply(command.request_id, None))

        stranger.control._handle = reply_nothing  # type: ignore[method-assign]
        assert (await layer.node_reports()).errors == ["it has no report"]

    asyncio.run(main())


@pytest.mark.parametrize("keys", [[], ["a key of some length"]], ids=["plain", "encrypted"])
def test_reports_and_requests_are_encrypted_as_commands_are(keys: list[str]) -> None:
    async def main() -> None:
        layer, other = layers(2, symmetric_encryption_keys=keys)
        name = await other.new_channel()
        await other.group_add("room", name)
        found = await layer.node_reports(details=True)
        assert found.by_node[node_in(other).id][0].groups == {"room": 1}
        before = other.statistics()["undecodable"]
        if keys:
            # What is not encrypted with the keys is not even read.
            stranger = AnyioChannelLayer(layer=type(node_in(other).channel.layer), options=_options(other))
            await stranger._dispatcher.publish(node_in(other).inbox, seal(CONTROL, request()))
            assert other.statistics()["undecodable"] == before + 1

    def _options(layer: AnyioChannelLayer) -> dict[str, Any]:
        return {"broker": node_in(layer).channel.layer.broker}  # type: ignore[attr-defined]

    asyncio.run(main())


def test_messages_are_counted_only_while_reports_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        member = await layer.new_channel()
        await layer.group_add("room", member)
        node = node_in(layer)
        plain = node.publish

        async def counters() -> dict[str, int]:
            return (await layer.node_reports()).by_node[node.id][0].counters

        monkeypatch.setattr(reports, "_WATCHED_SECONDS", 0.2)
        assert (await counters())["published"] == 0
        for _ in range(3):
            await layer.group_send("room", {"type": "x"})
        found = await counters()
        assert (found["published"], found["received"]) == (3, 3 + 1)  # and the reply to the first request
        assert node.publish != plain
        node._reporter._stop_watching()  # too early
        assert node.publish != plain
        while node.publish != plain:
            await asyncio.sleep(0.01)
        await layer.group_send("room", {"type": "x"})
        assert (await counters())["published"] == 3
        await layer.close()
        assert node._reporter._timer is not None
        assert node._reporter._timer.cancelled()

    asyncio.run(main())


def test_a_queue_that_has_just_expired() -> None:
    states = [QueueState("q", 1, expires_in) for expires_in in (-0.001, 2.0, None)]
    assert [reports._report_queue(each).expires_in for each in states] == [0.0, 2.0, None]


def test_the_name_of_a_host_is_shown_as_far_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    reports._process_name.cache_clear()
    monkeypatch.setattr("platform.node", lambda: "h\x1bö st")
    assert reports._process_name(7) == "h???st:7"
    reports._process_name.cache_clear()
    monkeypatch.setattr("platform.node", lambda: "")
    assert reports._process_name(7) == "unknown:7"
    reports._process_name.cache_clear()


def test_an_idle_loop_of_this_process_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    layer, other = layers(2)
    idle = asyncio.new_event_loop()
    idle.run_until_complete(other.new_channel())

    async def main() -> None:
        found = await soon(layer.node_reports(timeout=60))
        assert found.nodes == len(found.by_node) == 1

    asyncio.run(main())
    idle.run_until_complete(other.close())
    idle.close()
