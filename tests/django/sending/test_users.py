"""`django.sending.users`, `django.messages.closing`: consumers of any kind are reached by their users, and closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, UserMixin, user_groups
from django_anyio_channels.core.serializers import MARKER
from django_anyio_channels.django.messages.closing import CLOSE, close_message, session_hash
from django_anyio_channels.django.sending.users import session_groups

pytestmark = pytest.mark.anyio

SECONDS = 20.0
ENDED: list[int] = []
"""The codes with which consumers were disconnected."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[True, False], ids=["fast", "as Channels does"])
async def layer(request: pytest.FixtureRequest) -> AsyncIterator[AnyioChannelLayer]:
    made = AnyioChannelLayer(fast_dispatch=request.param)
    before = channel_layers.set("default", made)
    ENDED.clear()
    yield made
    channel_layers.set("default", cast(BaseChannelLayer, before))
    await made.close()


def user(key: int | None, password: str = "old") -> Any:
    return SimpleNamespace(pk=key, is_authenticated=key is not None, get_session_auth_hash=lambda: password)


class Async(UserMixin, AsyncWebsocketConsumer):
    groups = ["room"]

    async def news(self, message: dict[str, Any]) -> None:
        await self.send(text_data=message["text"])

    async def disconnect(self, code: int) -> None:
        ENDED.append(code)


class AsyncJson(UserMixin, AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def news(self, message: dict[str, Any]) -> None:
        await self.send(text_data=message["text"])

    async def disconnect(self, code: int) -> None:
        ENDED.append(code)


class Sync(UserMixin, WebsocketConsumer):
    groups = ["room"]

    def news(self, message: dict[str, Any]) -> None:
        self.send(text_data=message["text"])

    def disconnect(self, code: int) -> None:
        ENDED.append(code)


class SyncJson(UserMixin, JsonWebsocketConsumer):
    groups = ["room"]

    def news(self, message: dict[str, Any]) -> None:
        self.send(text_data=message["text"])

    def disconnect(self, code: int) -> None:
        ENDED.append(code)


class OwnDispatch(Async):
    async def dispatch(self, message: dict[str, Any]) -> None:
        await super().dispatch(message)


class OwnHandler(OwnDispatch):
    async def anyio_channels_close(self, message: dict[str, Any]) -> None:
        await self.send(text_data=f"not {message['code']}")


async def connected(consumer: Any, key: int | None = None, session_key: str | None = None) -> WebsocketCommunicator:
    browser = WebsocketCommunicator(consumer.as_asgi(), "/")
    scope: Any = browser.scope
    scope["user"], scope["session"] = user(key), SimpleNamespace(session_key=session_key)
    assert await browser.connect(timeout=SECONDS) == (True, None)
    return browser


async def closed(browser: WebsocketCommunicator, code: int) -> None:
    assert await browser.receive_output(SECONDS) == {"type": "websocket.close", "code": code}
    await browser.wait(SECONDS)


async def text(browser: WebsocketCommunicator) -> str:
    return cast(str, await browser.receive_from(SECONDS))


@pytest.mark.parametrize("kind", [Async, AsyncJson, Sync, SyncJson, OwnDispatch])
async def test_consumers_are_closed_whatever_their_kind(layer: AnyioChannelLayer, kind: Any) -> None:
    first, second = await connected(kind), await connected(kind, 7)
    await layer.group_close("room", 4001, exclude="somebody!else")
    for browser in (first, second):
        await closed(browser, 4001)
    assert ENDED == [4001, 4001]
    third = await connected(kind, 7)
    await sync_to_async(layer.group_close_sync, thread_sensitive=False)("room")
    await closed(third, 4403)
    assert layer.statistics()["topics"] <= 4


async def test_a_consumer_may_handle_it_itself(layer: AnyioChannelLayer) -> None:
    browser = await connected(OwnHandler)
    await layer.group_close("room", 4001)
    assert await text(browser) == "not 4001"
    await browser.disconnect(timeout=SECONDS)


@pytest.mark.parametrize("kind", [Async, Sync])
async def test_a_user_is_reached_in_all_windows(layer: AnyioChannelLayer, kind: Any) -> None:
    windows = [await connected(kind, 7), await connected(kind, 7, "a session")]
    other, nobody = await connected(kind, 77), await connected(kind)
    await layer.user_send(7, {"type": "news", "text": "one"})
    await sync_to_async(layer.user_send_sync, thread_sensitive=False)(user(7), {"type": "news", "text": "two"})
    for browser in windows:
        assert [await text(browser) for _ in range(2)] == ["one", "two"]
    await layer.group_close(session_groups("a session"), 4002)
    await closed(windows[1], 4002)
    await layer.user_close(user(7))
    await closed(windows[0], 4401)
    another = await connected(kind, 7)
    await sync_to_async(layer.user_close_sync, thread_sensitive=False)("7", 4009)
    await closed(another, 4009)
    await layer.group_send("room", {"type": "news", "text": "three"})
    for browser in (other, nobody):
        assert await text(browser) == "three"
        await browser.disconnect(timeout=SECONDS)


async def test_only_those_whose_password_was_another_one_are_closed(layer: AnyioChannelLayer) -> None:
    browser = await connected(Async, 7)
    for password, fallbacks in (("old", ()), ("new", ("old",))):
        changed = user(7, password)
        changed.get_session_auth_fallback_hash = lambda fallbacks=fallbacks: iter(fallbacks)
        await sync_to_async(layer.close_if_changed_sync, thread_sensitive=False)(changed)
    await layer.user_send(7, {"type": "news", "text": "still here"})
    assert await text(browser) == "still here"
    changed = user(7, "new")
    changed.get_session_auth_fallback_hash = lambda: iter(())
    await sync_to_async(layer.close_if_changed_sync, thread_sensitive=False)(changed)
    await closed(browser, 4401)


async def test_who_is_closed_handles_nothing_that_waits(layer: AnyioChannelLayer) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    class Slow(Async):
        async def news(self, message: dict[str, Any]) -> None:
            entered.set()
            await release.wait()
            await super().news(message)

    browser = await connected(Slow, 7)
    for number in range(150):  # more than its mailbox has room for
        await layer.user_send(7, {"type": "news", "text": str(number)})
        await entered.wait()
    await layer.user_close(7)
    release.set()
    while (output := await browser.receive_output(SECONDS))["type"] == "websocket.send":
        assert int(output["text"]) < 2
    assert output == {"type": "websocket.close", "code": 4401}


async def test_it_is_no_end_for_consumers_without_a_websocket(
    layer: AnyioChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "django_anyio_channels")

    class Page(AsyncHttpConsumer):
        async def handle(self, body: bytes) -> None:
            await layer.group_add("room", self.channel_name)
            await layer.group_close("room")
            await layer.group_send("room", {"type": "end"})

        async def http_request(self, message: Any) -> None:
            await self.handle(message["body"])

        async def end(self, message: dict[str, Any]) -> None:
            await self.send_response(200, b"still here")

    response = await HttpCommunicator(Page.as_asgi(), "GET", "/").get_response(SECONDS)
    assert response["body"] == b"still here"
    assert "Page has no WebSocket to close" in caplog.text


@pytest.mark.parametrize("kind", [Async, Sync])
async def test_strangers_close_nothing_by_accident(
    layer: AnyioChannelLayer, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    browser = await connected(kind, 7)
    for forged in ({}, {"code": "4001"}, {"code": True}, {"code": 1006}, {"code": 10**9}):
        await layer.group_send("room", {"type": CLOSE, **forged})
    node = next(iter(layer._dispatcher.nodes))
    await node.publish("asgi:g:room", MARKER + b"\x00")
    await layer.group_send("room", {"type": "news", "text": "still here"})
    assert await text(browser) == "still here"
    assert caplog.text.count("closes with an invalid code") == 5
    assert "the beginning of an envelope" in caplog.text
    await layer.group_send("room", {"type": CLOSE, "code": 4001, "unless": "nonsense"})
    await closed(browser, 4001)


async def test_other_unknown_types_are_errors_as_ever(layer: AnyioChannelLayer) -> None:
    for kind in (Async, Sync, OwnDispatch):
        browser = await connected(kind)
        await layer.group_send("room", {"type": "nothing.known"})
        with pytest.raises(ValueError, match=r"No handler for message type nothing\.known"):
            await browser.wait(SECONDS)


async def test_the_mixin_is_for_websockets() -> None:
    class Page(UserMixin, AsyncHttpConsumer): ...

    with pytest.raises(TypeError, match="Page has no WebSocket; UserMixin is for WebSocket consumers"):
        await Page()({"type": "http"}, None, None)


def test_the_mixin_stands_before_the_consumer() -> None:
    with pytest.raises(TypeError, match=r"Wrong names UserMixin behind its consumer; .* class ...\(UserMixin, ...\)"):

        class Wrong(AsyncWebsocketConsumer, UserMixin): ...

    class Mixed(UserMixin): ...

    assert AsyncConsumer not in Mixed.__mro__


def test_names_of_groups_tell_nothing_and_follow_the_secret_key() -> None:
    layer = AnyioChannelLayer()
    (name,) = user_groups(7)
    assert [name] == user_groups("7") == user_groups(user(7))
    (session,) = session_groups("7")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["for tests"]):
        new, old = user_groups(7)
    for each in (name, session, new, old):
        assert layer.require_valid_group_name(each)
    assert (old, len({name, session, new})) == (name, 3)
    assert name.rpartition(".")[2] != "7"
    assert session_hash("old") not in ("old", session_hash("new"))


@pytest.mark.parametrize("nobody", [None, "", True, user(None)])
def test_nobody_is_no_user(nobody: Any) -> None:
    with pytest.raises(ValueError, match="has no primary key: it is not saved, or nobody is logged in"):
        user_groups(nobody)


def test_only_codes_that_servers_take() -> None:
    assert close_message(1000)["code"] == 1000
    for code in (0, 999, 1001, 1012, 2999, 5000):
        with pytest.raises(ValueError, match=f"is {code}; it must be 1000, or from 3000 to 4999"):
            close_message(code)
    for wrong in ("4001", True, None):
        with pytest.raises(TypeError, match="is a whole number"):
            close_message(wrong)  # type: ignore[arg-type]
