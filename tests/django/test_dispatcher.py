"""`django.dispatcher`: which event loop carries a call, for a broker that accepts none from other threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from django_anyio_channels import AnyioChannelLayer, Channel, ChannelClosed, NotSupported
from django_anyio_channels.django import dispatcher
from django_anyio_channels.django.nodes.node import Node
from django_anyio_channels.django.process.background_loop import BackgroundLoop
from django_anyio_channels.django.process.cross_loop import submit
from tests.contract.kinds import RemoteMemoryLayer

TIME_LIMIT = 30.0


def test_a_loop_that_keeps_publishing_gets_a_node_of_its_own() -> None:
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)

    async def publish(times: int) -> int:
        for number in range(times):
            await layer.group_send("g", {"type": "n", "n": number})
        return int(layer.statistics()["nodes"])

    assert asyncio.run(publish(1)) == 1
    assert asyncio.run(publish(16)) == 1
    assert asyncio.run(publish(17)) == 2


def test_closing_where_no_background_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    background = BackgroundLoop()
    monkeypatch.setattr(dispatcher, "background", background)
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)

    async def main() -> None:
        await layer.new_channel()
        await layer.close()
        assert layer.statistics()["nodes"] == 0

    asyncio.run(main())
    assert background.loop_if_running is None


@pytest.mark.parametrize("verb", ["group_add_sync", "group_discard_sync"])
def test_a_loop_that_ends_meanwhile_is_replaced(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)
    asked, open_node = threading.Event(), threading.Event()
    calls: list[threading.Thread] = []
    original = getattr(Node, verb.removesuffix("_sync"))

    async def hang_at_first(node: Node, *arguments: Any) -> None:
        calls.append(threading.current_thread())
        if len(calls) == 1:
            asked.set()
            await asyncio.get_running_loop().create_future()
        await original(node, *arguments)

    monkeypatch.setattr(Node, verb.removesuffix("_sync"), hang_at_first)

    async def live_until_asked() -> None:
        await layer.new_channel()
        open_node.set()
        await asyncio.to_thread(asked.wait, TIME_LIMIT)

    thread = threading.Thread(target=lambda: asyncio.run(live_until_asked()))
    thread.start()
    assert open_node.wait(TIME_LIMIT)
    getattr(layer, verb)("g", "normal")
    thread.join(TIME_LIMIT)
    assert len(calls) == 2
    assert calls[0] is thread
    assert calls[1] is not thread


@pytest.mark.parametrize("verb", ["send", "group_send"])
def test_a_message_for_a_node_that_is_closing_goes_another_way(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)
    calls: list[str] = []
    owner: Any = Node if verb == "send" else Channel
    name = "put" if verb == "send" else "publish_payload"
    original: Any = getattr(owner, name)

    async def closed_at_first(self: object, topic: str, payload: bytes) -> Any:
        calls.append(topic)
        if len(calls) % 2:
            raise ChannelClosed("just now")
        return await original(self, topic, payload)

    monkeypatch.setattr(owner, name, closed_at_first)

    async def serve(published: Any) -> None:
        await layer.new_channel()
        await asyncio.to_thread(published)

    asyncio.run(serve(lambda: getattr(layer, f"{verb}_sync")("x", {"type": "n", "n": 1})))
    asyncio.run(serve(lambda: asyncio.run(getattr(layer, verb)("x", {"type": "n", "n": 1}))))
    assert len(calls) == 4


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_a_blocked_loop_does_not_keep_other_threads_waiting(in_a_loop: bool) -> None:
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)
    blocked, go_on = threading.Event(), threading.Event()
    received: list[Any] = []

    async def serve() -> None:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        blocked.set()
        assert go_on.wait(TIME_LIMIT)
        received.extend([await layer.receive(channel) for _ in range(3)])
        await layer.send(channel, {"type": "x", "n": "last"})
        received.append(await layer.receive(channel))

    async def send() -> None:
        for number in range(3):
            await layer.group_send("g", {"type": "x", "n": number})

    thread = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(serve(), TIME_LIMIT)))
    thread.start()
    assert blocked.wait(TIME_LIMIT)
    if in_a_loop:
        asyncio.run(send())
    else:
        layer.group_add_sync("g", "worker")
        for number in range(3):
            layer.group_send_sync("g", {"type": "x", "n": number})
        assert asyncio.run(layer.receive("worker")) == {"type": "x", "n": 0}
    go_on.set()
    thread.join(TIME_LIMIT)
    assert [message["n"] for message in received] == [0, 1, 2, "last"]


def test_sync_methods_are_refused_in_an_event_loop() -> None:
    layer = AnyioChannelLayer()

    async def main() -> None:
        for method, arguments in (
            (layer.send_sync, ("worker", {"type": "x", "n": 1})),
            (layer.group_send_sync, ("g", {"type": "x", "n": 1})),
            (layer.group_add_sync, ("g", "worker")),
            (layer.group_discard_sync, ("g", "worker")),
        ):
            with pytest.raises(SynchronousOnlyOperation, match="await the method without _sync"):
                method(*arguments)
        await layer.send("worker", {"type": "x", "n": 2})
        assert await layer.receive("worker") == {"type": "x", "n": 2}

    asyncio.run(main())


def test_sync_code_reaches_each_of_several_brokers_in_memory() -> None:
    layer = AnyioChannelLayer(url=["memory://", "memory://"])

    async def receive_all() -> int:
        received = 0
        for number in range(8):
            channel = await layer.new_channel()
            await layer.group_add(f"g{number}", channel)
            await asyncio.to_thread(layer.group_send_sync, f"g{number}", {"type": "x"})
            await asyncio.to_thread(layer.send_sync, f"worker{number}", {"type": "x"})
            for name in (channel, f"worker{number}"):
                await asyncio.wait_for(layer.receive(name), TIME_LIMIT)
                received += 1
        return received

    assert asyncio.run(receive_all()) == 16


def test_a_list_of_brokers_has_no_transaction_to_send_in() -> None:
    layer = AnyioChannelLayer(url=["postgresql://one/shop", "postgresql://two/shop"])
    with pytest.raises(NotSupported, match="on_commit"):
        layer.in_transaction()


def test_a_message_to_a_group_that_sync_code_cannot_put_into_a_full_queue_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = AnyioChannelLayer(capacity=1)
    layer.group_add_sync("g", "worker")
    for _ in range(2):
        layer.group_send_sync("g", {"type": "x"})
    assert "Dropped a message to asgi:g:g for the full queue asgi:q:worker" in caplog.text


@pytest.mark.parametrize("opened", [False, True], ids=["first call", "node is open"])
@pytest.mark.parametrize(
    "name", ["foo!bar", "foo!", f"specific.{'0' * 32}!{'0' * 32}", f"specific.{'0' * 16}!abc", "!a"]
)
def test_receiving_on_a_process_channel_of_no_event_loop_of_this_process_raises_at_once(
    name: str, opened: bool
) -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        if opened:
            await layer.new_channel()
        error, text = (
            (TypeError, "Channel name") if name == "!a" else (ValueError, "the process or event loop that made")
        )
        with pytest.raises(error, match=text):
            await asyncio.wait_for(layer.receive(name), TIME_LIMIT)

    asyncio.run(main())


def test_a_message_for_a_reader_in_another_loop_that_has_gone_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come in the moment in which the reader is cancelled."""
    unclaimed: list[Any] = []

    def record(loop: Any, call: Any, put_back: Any = None) -> Any:
        if put_back is not None:
            unclaimed.append(put_back)
        return submit(loop, call, put_back)

    monkeypatch.setattr(dispatcher, "submit", record)
    layer = AnyioChannelLayer(layer=RemoteMemoryLayer)

    async def main() -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x"})
        received = await asyncio.to_thread(asyncio.run, layer.receive(channel))
        unclaimed[-1](received)
        assert await layer.receive(channel) == received
        await layer.close()
        unclaimed[-1](received)  # nobody can have it any more

    asyncio.run(main())
