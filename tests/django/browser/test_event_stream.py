"""`django.browser.event_stream`: the bytes of a stream, for one client."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest
from channels.layers import InMemoryChannelLayer as ChannelsOwnLayer
from django.core.exceptions import BadRequest, ImproperlyConfigured
from django.http import HttpRequest
from django.test import AsyncRequestFactory, RequestFactory
from django.utils.functional import lazystr

from django_anyio_channels import AnyioChannelLayer, EventStreamResponse
from django_anyio_channels.django.browser import event_stream
from django_anyio_channels.django.browser.event_stream import read_positions
from tests.django.helpers import all_channels_ended, layers, soon, take_down
from tests.django.presence.test_methods import WithoutPresence

from .helpers import default_layer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stream:
    """What a client reads, event by event."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def next(self) -> str:
        chunk: bytes = await soon(anext(self._chunks))
        assert chunk.endswith(b"\n\n")
        return chunk.decode()[:-2]


@asynccontextmanager
async def stream(groups: Any, *, last_id: str = "", **options: Any) -> AsyncIterator[Stream]:
    request = AsyncRequestFactory().get("/", headers={"Last-Event-ID": last_id} if last_id else {})
    response = EventStreamResponse(request, groups, **options)
    async with aclosing(cast(Any, response).__aiter__()) as chunks:
        opened = Stream(chunks)
        assert re.fullmatch(r"retry: [1-9]\d*", await opened.next())
        yield opened


@pytest.fixture
async def layer() -> AsyncIterator[AnyioChannelLayer]:
    async with default_layer(AnyioChannelLayer(options={"history_length": 10})) as made:
        yield made


async def test_a_client_that_comes_back_gets_what_it_missed(layer: AnyioChannelLayer) -> None:
    async with stream("room") as first:
        assert await first.next() == ":"
        (position,) = re.fullmatch(r"id: (\S+)", await first.next()).groups()  # type: ignore[union-attr]
        await layer.group_send("room", {"type": "room.said", "text": "a\nb"})
        one = await first.next()
        assert re.fullmatch(r'id: \S+\ndata: {"type":"room.said","text":"a\\nb"}', one)
        assert position not in one
    await all_channels_ended(layer)
    await layer.broadcast("room", text="two\r\nlines\rof it\n")
    async with stream("room", last_id=one.split()[1]) as second:
        assert await second.next() == f"id: {one.split()[1]}"
        assert await second.next() == f"id: {one.split()[1]}"
        two = await second.next()
        assert re.fullmatch(r"id: \S+\ndata: two\ndata: lines\ndata: of it\ndata: ", two)
    async with stream("room", last=1) as third:
        assert [await third.next(), await third.next()] == [":", ":"]
        assert await third.next() == two


async def test_several_groups_share_a_stream(layer: AnyioChannelLayer) -> None:
    async with stream(["room", "hall", "room"]) as first:
        await first.next()
        assert re.fullmatch(r"id: room=\S+", await first.next())
        assert re.fullmatch(r"id: room=[^,]+,hall=[^,]+", await first.next())
        await layer.broadcast("hall", text="1")
        last_id = (await first.next()).split()[1]
        for group in ("hall", "room"):
            await layer.broadcast(group, text="2")
    async with stream(["room", "hall"], last_id=last_id + ",street=1,yard,=") as second:
        got = [await second.next() for _ in range(5)]
        assert sorted(event.partition("\n")[2] for event in got) == ["", "", "", "data: 2", "data: 2"]


async def test_what_is_lost_is_an_event(layer: AnyioChannelLayer) -> None:
    await layer.broadcast("room", text="here")
    async with stream("room", last_id="00000000-1-1", last=1) as first:
        await first.next()
        assert (await first.next()).endswith('\nevent: missed\ndata: {"group":"room"}')
        assert (await first.next()).endswith("\ndata: here")
        # From the broker's last word on it comes in the next stream.
        await layer.group_send("room", {"type": "group.missed", "group": "room"})
        with pytest.raises(StopAsyncIteration):
            await first.next()
    await all_channels_ended(layer)


async def test_without_a_history_it_says_so() -> None:
    async with default_layer(AnyioChannelLayer(outage_message="group.missed")) as layer:
        async with stream("room") as first:
            assert [await first.next(), await first.next()] == [":", "id: -"]
            (channel,) = (each.name for each in next(iter(layer._dispatcher.nodes)).local_channels)
            await layer.send(channel, {"type": "group.missed"})
            assert await first.next() == 'id: -\nevent: missed\ndata: {"group":null}'
            await layer.group_send("room", {"type": "room.said"})
            assert await first.next() == 'id: -\ndata: {"type":"room.said"}'
        async with stream("room", last_id="-") as second:
            assert [await second.next(), await second.next()] == [
                "id: -",
                'id: -\nevent: missed\ndata: {"group":"room"}',
            ]


async def test_events_are_rendered(layer: AnyioChannelLayer) -> None:
    def render(message: dict[str, Any]) -> Any:
        return {"name": ("tick", "<b>1</b>"), "out": None}.get(message["type"], "plain")

    async def render_slowly(message: dict[str, Any]) -> Any:
        return render(message)

    for each in (render, render_slowly):
        async with stream("room", render=each) as first:
            await first.next()
            await first.next()
            for kind in ("name", "out", "other"):
                await layer.group_send("room", {"type": kind})
            assert (await first.next()).endswith("\nevent: tick\ndata: <b>1</b>")
            assert re.fullmatch(r"id: \S+", await first.next())
            assert (await first.next()).endswith("\ndata: plain")
    async with stream("room", render=lambda message: ("a\nid: 7", "")) as broken:
        await broken.next()
        await broken.next()
        await layer.group_send("room", {"type": "any"})
        with pytest.raises(ValueError, match="is one line"):
            await broken.next()


async def test_frames_are_those_of_the_protocol(layer: AnyioChannelLayer) -> None:
    async with stream("room", frames=True) as first:
        assert await first.next() == 'data: {"type":"hello","version":1}'
        joined = await first.next()
        position = joined.split()[1]
        frame = f'"type":"joined","group":"room","position":"{position}","complete":true,"history":true'
        assert joined == f"id: {position}\ndata: {{{frame}}}"
        await layer.group_send("room", {"type": "group.message", "message": [1]})
        message = await first.next()
        position = message.split()[1]
        assert message.endswith(f'data: {{"type":"message","group":"room","position":"{position}","message":[1]}}')
        (channel,) = (each.name for each in next(iter(layer._dispatcher.nodes)).local_channels)
        await layer.send(channel, {"type": "group.missed"})
        assert (await first.next()).endswith('data: {"type":"missed","group":null}')


async def test_a_stream_with_a_member_is_present(layer: AnyioChannelLayer) -> None:
    async with stream(["room", "hall"], member="ana", meta={"name": "Ana"}) as ana:
        for _ in range(3):
            await ana.next()
        assert {group: (await layer.group_members(group))["ana"].metas for group in ("room", "hall")} == {
            "room": [{"name": "Ana"}],
            "hall": [{"name": "Ana"}],
        }
        async with stream("room", frames=True, member="bob") as bob:
            assert "hello" in await bob.next()
            assert (await bob.next()).endswith('"history":true,"members":{"ana":[{"name":"Ana"}],"bob":[{}]}}')
            channel = await layer.new_channel()
            for meta in ({}, {"name": "Eve"}):
                await layer.group_add("room", channel, member="eve", meta=meta)
                kind, metas = ("updated", '{"name":"Eve"}') if meta else ("joined", "{}")
                frame = f'"group":"room","event":"{kind}","member":"eve","metas":[{metas}]'
                while (event := await bob.next()).find(frame) < 0:
                    assert '"member":"bob"' in event  # it may come once more
            await layer.group_discard("room", channel)
            assert (await bob.next()).endswith('data: {"type":"presence","group":"room","event":"left","member":"eve"}')
    await all_channels_ended(layer)
    for group in ("room", "hall"):
        assert (await layer.group_count(group)).channels == 0


async def test_presence_where_there_is_none(layer: AnyioChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="meta without member"):
        EventStreamResponse(AsyncRequestFactory().get("/"), ["a"], meta={})
    with monkeypatch.context() as patched:
        patched.setattr(event_stream, "MAX_MEMBERS", 0)
        async with stream("room", frames=True, member="ana") as crowded:
            await crowded.next()
            assert '"members":null' in await crowded.next()
    async with default_layer(AnyioChannelLayer(layer=WithoutPresence)):
        async with stream("room", frames=True, member="ana") as alone:
            await alone.next()
            assert '"history":false,"members":null' in await alone.next()
    without = ChannelsOwnLayer()
    async with stream("room", frames=True, member="ana", layer=without) as first:
        await first.next()
        assert '"history":false,"members":null' in await first.next()
    await without.close()


async def test_silence_is_filled_and_a_membership_does_not_end_in_silence() -> None:
    async with default_layer(AnyioChannelLayer(group_expiry=1.0)):
        async with stream("room", heartbeat=0.01) as first:
            await first.next()
            await first.next()
            beats = 0
            with pytest.raises(StopAsyncIteration):
                while True:
                    assert await first.next() == ":"
                    beats += 1
            assert beats


async def test_the_broker_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    (layer,) = layers(1, publish_timeout=1.0)
    async with default_layer(layer):
        await layer.new_channel()
        await take_down(layer)
        async with stream("room") as first:
            await first.next()
            with pytest.raises(StopAsyncIteration):
                await first.next()
    assert "A stream of events ended, and its browser comes back" in caplog.text


async def test_over_the_layer_of_another_package() -> None:
    layer = ChannelsOwnLayer()
    async with stream("room", layer=layer) as first:
        await first.next()
        await first.next()
        await layer.group_send("room", {"type": "room.said"})
        assert (await first.next()).endswith('data: {"type":"room.said"}')
    assert not layer.groups.get("room")
    await layer.close()


async def test_headers_for_proxies(layer: AnyioChannelLayer) -> None:
    response = EventStreamResponse(AsyncRequestFactory().get("/"), ["a"], headers={"X-Accel-Buffering": "yes"})
    assert dict(response.headers) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-store, no-transform",
        "Content-Encoding": "identity",
        "X-Accel-Buffering": "yes",
    }


async def test_a_herd_comes_back_over_the_whole_window(layer: AnyioChannelLayer) -> None:
    tenths = [0] * 10
    for _ in range(1000):
        response = EventStreamResponse(AsyncRequestFactory().get("/"), ["room"], retry=10.0)
        async with aclosing(cast(Any, response).__aiter__()) as chunks:
            tenths[int(re.findall(rb"\d+", await anext(chunks))[0]) // 1001] += 1
    assert 50 < min(tenths) < max(tenths) < 160


async def test_a_request_may_be_wrapped(layer: AnyioChannelLayer) -> None:
    class Wrapped:
        def __init__(self, request: HttpRequest) -> None:
            self._request = request
            self.headers = request.headers

    wrapped: Any = Wrapped(AsyncRequestFactory().get("/"))
    assert EventStreamResponse(wrapped, ["room"]).status_code == 200
    with pytest.raises(ImproperlyConfigured, match="needs ASGI"):
        EventStreamResponse(cast(Any, Wrapped(RequestFactory().get("/"))), ["room"])


async def test_what_is_refused(layer: AnyioChannelLayer) -> None:
    request: HttpRequest = AsyncRequestFactory().get("/")
    with pytest.raises(ImproperlyConfigured, match="needs ASGI: under WSGI each client .* Serve the project with"):
        EventStreamResponse(RequestFactory().get("/"), ["room"])
    wrong: list[Any] = [[], map(str, range(101))]
    for groups in wrong:
        with pytest.raises(BadRequest, match="has 1 to 100 groups, not"):
            EventStreamResponse(request, groups)
    names: list[Any] = ["a b", "a\n", "", "a" * 100, lazystr("a")]
    for name in names:
        with pytest.raises(BadRequest, match="is not a valid group name"):
            EventStreamResponse(request, [name])
    with pytest.raises(TypeError, match="render or frames"):
        EventStreamResponse(request, ["room"], frames=True, render=str)


async def test_ids_of_others() -> None:
    assert read_positions("x" * 20_000, ["a"]) == {}
    assert read_positions("", ["a"]) == read_positions("1-1", ["a", "b"]) == {}
    assert read_positions("1-1", ["a"]) == read_positions("a=1-1,b=2", ["a"]) == {"a": "1-1"}
