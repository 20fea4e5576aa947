"""What the layer offers tests, where one process is enough; see ``tests/testing`` for whole projects."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import ChannelFull

from django_anyio_channels import AnyioChannelLayer, ListenerClosed
from django_anyio_channels.django.names import TEST_RUN
from django_anyio_channels.django.settings import ConfigError


def test_captured_lists_what_was_sent_in_any_way() -> None:
    layer = AnyioChannelLayer(capacity=1)
    send_mail = layer.send_sync

    async def scenario() -> None:
        message = {"type": "order", "lines": [1]}
        with layer.captured() as sent:
            await layer.group_send("orders", message)
            message["lines"] = []
            with layer.captured() as inner:
                await layer.send("jobs", {"type": "job"})
            with pytest.raises(ChannelFull):
                await layer.send("jobs", {"type": "too much"})
            await asyncio.to_thread(send_mail, "mail", {"type": "mail"})
            await asyncio.to_thread(layer.group_send_sync, "orders", {"type": "order"})
            with layer.outage(), pytest.raises(ListenerClosed):
                await layer.group_send("orders", {"type": "lost"})
            with pytest.raises(ValueError, match="type"):
                await layer.group_send("orders", {})
        assert inner == [("channel", "jobs", {"type": "job"})]
        assert sent == [
            ("group", "orders", {"type": "order", "lines": [1]}),
            *inner,
            ("channel", "mail", {"type": "mail"}),
            ("group", "orders", {"type": "order"}),
        ]
        await layer.group_send("orders", {"type": "later"})
        assert len(sent) == 4
        assert await layer.receive("jobs") == {"type": "job"}
        assert layer._observers == ()

    asyncio.run(scenario())


def test_captured_may_iterate_over_the_groups_once_more() -> None:
    async def run() -> None:
        layer = AnyioChannelLayer()
        message = {"type": "x"}
        with layer.captured() as sent:
            await layer.group_send(iter(["a", "b"]), message)
            await layer.broadcast(iter(["c"]), text="frame")
            await asyncio.to_thread(layer.group_send_sync, iter(["d"]), message)
            await asyncio.to_thread(layer.user_send_sync, 5, message, exclude=iter(["worker"]))
        assert [group for _, group, _ in sent[:4]] == ["a", "b", "c", "d"]
        assert len(sent) == 5
        await layer.close()

    asyncio.run(run())


def test_test_run_is_a_part_of_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_RUN, "12")
    assert AnyioChannelLayer()._settings.prefix == "asgi.test-12"
    assert AnyioChannelLayer(prefix="shop")._settings.prefix == "shop.test-12"
    with pytest.raises(ConfigError, match="prefix"):
        AnyioChannelLayer(prefix=None)


def test_layer_that_was_not_used_does_not_connect() -> None:
    AnyioChannelLayer(url="redis://127.0.0.1:9", publish_timeout=0.1)._empty()
    used = AnyioChannelLayer(url="redis://127.0.0.1:9", publish_timeout=0.1)
    with pytest.raises(ListenerClosed):
        used.send_sync("jobs", {"type": "job"})
    with pytest.raises(ListenerClosed):
        used._empty()


def test_emptied_within_an_event_loop() -> None:
    layer = AnyioChannelLayer()

    async def scenario() -> None:
        layer._empty()

    layer.send_sync("jobs", {"type": "left"})
    asyncio.run(scenario())
    layer.send_sync("jobs", {"type": "job"})
    assert asyncio.run(layer.receive("jobs")) == {"type": "job"}
