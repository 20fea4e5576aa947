"""`django.browser.consumers`: what clients of `ResumableConsumer`, of both kinds, get and may do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer as ChannelsOwnLayer

from django_anyio_channels import (
    AnyioChannelLayer,
    ListenerClosed,
    NotSupported,
    ResumableConsumer,
    SyncResumableConsumer,
)
from django_anyio_channels.django.browser import conversation
from tests.django.helpers import layers, take_down

from .helpers import PATIENCE, Client, client, default_layer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Room(ResumableConsumer):
    max_groups = 2
    max_last = 2

    async def authenticate(self, token: str | None) -> bool:
        return token != "stolen"

    async def may_join(self, group: str) -> bool:
        return group != "vault"

    async def received(self, message: Any, group: str | None) -> None:
        layer: Any = self.channel_layer
        if message == "leave me":
            await self.leave_group("room")
        elif message == "groups":
            await self.send(json.dumps(self.joined_groups))
        elif message == "refuse":
            await super().received(message, group)
        elif message == "check":
            await self.refuse("wrong", "not this one", group, message_id="7")
            await self.tell({"for": "you"})
        else:
            await layer.group_send(group, {"type": "group.message", "group": group, "message": message})

    async def room_rang(self, message: dict[str, Any]) -> None:
        await self.push(message, {"rang": message["times"]})


class SyncRoom(SyncResumableConsumer):
    max_groups = 2
    max_last = 2

    def authenticate(self, token: str | None) -> bool:
        return token != "stolen"

    def may_join(self, group: str) -> bool:
        return group != "vault"

    def received(self, message: Any, group: str | None) -> None:
        layer: Any = self.channel_layer
        if message == "leave me":
            self.leave_group("room")
        elif message == "groups":
            self.send(json.dumps(self.joined_groups))
        elif message == "refuse":
            super().received(message, group)
        elif message == "check":
            self.refuse("wrong", "not this one", group, message_id="7")
            self.tell({"for": "you"})
        else:
            layer.group_send_sync(group, {"type": "group.message", "group": group, "message": message})

    def room_rang(self, message: dict[str, Any]) -> None:
        self.push(message, {"rang": message["times"]})


BOTH = pytest.mark.parametrize("room", [Room, SyncRoom])


@pytest.fixture
async def layer() -> AsyncIterator[AnyioChannelLayer]:
    async with default_layer(AnyioChannelLayer(options={"history_length": 100}, presence_grace=0.05)) as made:
        yield made


@pytest.fixture
async def plain() -> AsyncIterator[AnyioChannelLayer]:
    async with default_layer(AnyioChannelLayer()) as made:
        yield made


@BOTH
async def test_what_is_sent_to_groups_comes_with_its_position(layer: AnyioChannelLayer, room: Any) -> None:
    async with client(room) as ana:
        joined = await ana.ask("join", group="room")
        assert joined == {
            "type": "joined",
            "group": "room",
            "position": joined["position"],
            "complete": True,
            "history": True,
        }
        await ana.ask("join", group="hall")
        first = await ana.ask("message", group="room", message={"text": "one"})
        assert first == {"type": "message", "group": "room", "position": first["position"], "message": {"text": "one"}}
        await layer.group_send("hall", {"type": "room.rang", "times": 2})
        assert (await ana.receive())["message"] == {"rang": 2}
        await layer.broadcast("hall", json={"score": [1, 2]})
        await layer.broadcast("room", text="half-time")
        await layer.broadcast("room", bytes=b"\x00")
        got = [await ana.receive() for _ in range(3)]
        assert [(each["group"], each["message"]) for each in got] == [
            ("hall", {"score": [1, 2]}),
            ("room", "half-time"),
            ("room", "AA=="),
        ]
        assert await ana.ask("message", message="groups") == ["room", "hall"]
        assert await ana.ask("leave", group="hall") == {"type": "left", "group": "hall"}
        await layer.broadcast("hall", text="nobody")
        assert await ana.ask("ping") == {"type": "ping"}
    async with client(room) as back:
        assert (await back.ask("join", group="room", since=first["position"]))["complete"]
        assert [(await back.receive())["message"] for _ in range(2)] == ["half-time", "AA=="]
        joined = await back.ask("join", group="hall", last=50)
        assert (joined["complete"], joined["position"]) == (True, None)
        assert [(await back.receive())["message"] for _ in range(2)] == [{"score": [1, 2]}, "nobody"]
        assert await back.ask("message", message="leave me") == {"type": "left", "group": "room", "code": "forbidden"}
        lost = await back.ask("join", group="room", since="00000000-1-1", last=1)
        assert (lost["complete"], (await back.receive())["message"]) == (False, "AA==")


async def test_what_waited_when_a_client_left_does_not_come_twice(layer: AnyioChannelLayer) -> None:
    gate = asyncio.Event()

    class Slow(Room):
        async def received(self, message: Any, group: str | None) -> None:
            await gate.wait()

    async with client(Slow) as ana:
        await ana.ask("join", group="room")
        await layer.broadcast("room", json=0)
        since = (await ana.receive())["position"]
        await ana.send("message", message="wait")
        for number in range(1, 91):
            await layer.broadcast("room", json=number)
        await ana.send("leave", group="room")
        await ana.send("join", group="room", since=since)
        gate.set()
        while (await ana.receive())["type"] != "joined":
            pass
        assert [(await ana.receive())["message"] for _ in range(90)] == list(range(1, 91))
        await ana.ask("leave", group="room")
        # Nothing of the past: what waits is not after the position that it joins at.
        gate.clear()
        assert (await ana.ask("join", group="room"))["position"]
        await ana.send("message", message="wait")
        for number in range(100, 190):
            await layer.broadcast("room", json=number)
        await ana.send("leave", group="room")
        await ana.send("join", group="room")
        gate.set()
        while (await ana.receive())["type"] != "joined":
            pass
        await layer.broadcast("room", json="new")
        assert (await ana.receive())["message"] == "new"


@BOTH
async def test_without_a_history_it_works_and_says_so(plain: AnyioChannelLayer, room: Any) -> None:
    async with client(room) as ana:
        joined = await ana.ask("join", group="room")
        assert (joined["position"], joined["complete"], joined["history"]) == ("-", True, False)
        await plain.group_send("room", {"type": "room.rang", "times": 1})
        only = {"type": "message", "group": "room", "position": None, "message": {"rang": 1}}
        assert await ana.receive() == only
        await ana.ask("join", group="hall")
        assert (await ana.ask("message", group="hall", message=1))["group"] == "hall"
        await plain.group_send("room", {"type": "room.rang", "times": 1})
        assert await ana.receive() == {**only, "group": None}
        (channel,) = (each.name for each in next(iter(plain._dispatcher.nodes)).local_channels)
        await plain.send(channel, {"type": "group.missed"})
        assert await ana.receive() == {"type": "missed", "group": None}
        await ana.ask("leave", group="room")
        assert not (await ana.ask("join", group="room", since="-"))["complete"]


@BOTH
@pytest.mark.parametrize("where", [{"group": "room"}, {}])  # that of a gap, and that of the setting `outage_message`
async def test_where_messages_are_missing_the_client_is_to_come_back(
    layer: AnyioChannelLayer, room: Any, where: dict[str, str]
) -> None:
    async with client(room) as ana:
        await ana.ask("join", group="room")
        await layer.group_send("room", {"type": "group.missed", **where})
        assert await ana.closed() == 4013


@BOTH
async def test_what_a_client_may_not_do(layer: AnyioChannelLayer, room: Any) -> None:
    async with client(room) as ana:

        def refused(frame: str, code: str, reason: str, group: str | None) -> Any:
            return {"type": "error", "frame": frame, "code": code, "reason": reason, "group": group}

        forbidden = refused("join", "forbidden", "this group is not for you", "vault")
        assert await ana.ask("join", group="vault") == forbidden
        await ana.ask("join", group="a")
        assert await ana.ask("join", group="a") == refused("join", "already_joined", "leave the group first", "a")
        await ana.ask("join", group="b")
        many = refused("join", "too_many_groups", "at most 2 for a connection", "c")
        assert await ana.ask("join", group="c") == many
        stranger = refused("message", "not_joined", "join the group first", "c")
        assert await ana.ask("message", group="c", message=1) == stranger
        unwanted = refused("message", "not_supported", "this server takes no messages", "a")
        assert await ana.ask("message", group="a", message="refuse") == unwanted
        assert await ana.ask("leave", group="c") == {"type": "left", "group": "c"}
        wrong = refused("message", "wrong", "not this one", "a")
        assert await ana.ask("message", group="a", message="check") == {**wrong, "id": "7"}
        assert await ana.receive() == {"type": "message", "group": None, "position": None, "message": {"for": "you"}}


class Closed(ResumableConsumer):
    """Overrides nothing."""


class SyncClosed(SyncResumableConsumer):
    """The same."""


@pytest.mark.parametrize("room", [Closed, SyncClosed])
async def test_by_default_nobody_joins_anything(layer: AnyioChannelLayer, room: Any) -> None:
    async with client(room) as ana:
        assert (await ana.ask("join", group="room"))["code"] == "forbidden"
        assert (await ana.ask("message", message=1))["code"] == "not_supported"


HELLO = {"type": "hello", "version": 1}
DEEP = '{"type": "message", "message": ' + "[" * 8000 + "]" * 8000 + "}"


@BOTH
@pytest.mark.parametrize(
    ("first", "wrong", "code", "reason", "closed"),
    [
        (None, {"type": "join", "group": "a"}, "invalid", "the first frame must be of the type hello", 4400),
        (None, {"type": "hello", "version": 2}, "version", "the server speaks version 1", 4406),
        (None, {**HELLO, "token": "stolen"}, "unauthorized", "the token is not accepted", 4401),
        (HELLO, HELLO, "invalid", "there is one hello for a connection", 4400),
        (HELLO, "no JSON", "invalid", "JSON is malformed", 4400),
        (HELLO, b"\x00", "invalid", "a frame is a text of 16384 characters", 4400),
        (HELLO, "[" * 16385, "invalid", "a frame is a text of 16384 characters", 4400),
        (HELLO, DEEP, "invalid", "recursion", 4400),
        (HELLO, {"type": "dance"}, "invalid", "Invalid value 'dance'", 4400),
        (HELLO, {"type": "join", "group": "a b"}, "invalid", "`$.group`", 4400),
        (HELLO, {"type": "join", "group": "a\n"}, "invalid", "`$.group`", 4400),
        (HELLO, {"type": "join", "group": "a", "last": -1}, "invalid", "`$.last`", 4400),
        (HELLO, {"type": "join", "group": "a", "since": "1" * 257}, "invalid", "`$.since`", 4400),
    ],
)
async def test_wrong_frames_close_the_connection_with_the_reason(
    layer: AnyioChannelLayer, room: Any, first: Any, wrong: Any, code: str, reason: str, closed: int
) -> None:
    async with client(room, hello=False) as ana:
        if first is not None:
            await ana.ask(kind=first["type"], version=1)
        if isinstance(wrong, dict):
            await ana.socket.send_json_to(wrong)
        elif isinstance(wrong, str):
            await ana.socket.send_to(text_data=wrong)
        else:
            await ana.socket.send_to(bytes_data=wrong)
        error = await ana.receive()
        assert (error["type"], error["code"]) == ("error", code)
        assert reason in error["reason"]
        assert await ana.closed() == closed


@BOTH
async def test_who_says_nothing_is_sent_away(layer: AnyioChannelLayer, room: Any) -> None:
    class Impatient(room):  # type: ignore[misc]
        hello_timeout = 0.01

    async with client(Impatient, hello=False) as ana:
        error = await ana.receive()
        assert (error["frame"], error["code"], error["reason"]) == (None, "timeout", "no hello came within 0.01 s")
        assert await ana.closed() == 4408


async def test_only_the_hello_has_a_time_limit(layer: AnyioChannelLayer) -> None:
    class Impatient(Room):
        hello_timeout = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def fail() -> Any:
                raise TimeoutError("the server's own")

            talk = self._conversation = conversation.Conversation(self, lambda method, *all: method(*all))
            limited = talk.limit(receive)
            assert (await limited())["type"] == "websocket.connect"
            assert await limited() == conversation.NO_HELLO
            with pytest.raises(TimeoutError, match="the server's own"):
                await talk.limit(fail)()
            self.base_send = send
            await self.accept()
            await talk.receive(json.dumps(HELLO))
            await self.send((await limited())["text"])

    async with client(Impatient, hello=False) as ana:
        assert (await ana.receive())["type"] == "hello"
        assert await ana.ask("ping") == {"type": "ping"}


@BOTH
async def test_who_joins_too_often_is_sent_away(layer: AnyioChannelLayer, room: Any) -> None:
    class Strict(room):  # type: ignore[misc]
        joins_per_minute = 1

    async with client(Strict) as ana:
        await ana.ask("join", group="a")
        error = await ana.ask("join", group="b")
        assert (error["code"], error["reason"]) == ("too_many_joins", "at most 1 a minute")
        assert await ana.closed() == 4429


@BOTH
async def test_a_client_comes_back_before_its_membership_ends(
    layer: AnyioChannelLayer, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0.5 <= conversation.stay_seconds(layer) / layer.group_expiry <= 0.9
    monkeypatch.setattr(conversation, "stay_seconds", lambda layer: 0.0)
    async with client(room) as ana, client(room) as bob:
        await ana.ask("join", group="room")
        await bob.ask("join", group="room")
        await ana.send("ping")
        assert await ana.closed() == 4013
        await layer.broadcast("room", json=1)
        assert await bob.closed() == 4013


async def test_only_so_many_groups_are_remembered(layer: AnyioChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "REMEMBERED", 1)
    async with client(Room) as ana:
        for group in ("a", "b", "a"):
            await ana.ask("join", group=group)
            await ana.ask("leave", group=group)


class Lobby(Room):
    async def presence_of(self, group: str) -> Any:
        return ("ana", {"name": "Ana"}) if group == "room" else "bob"


class SyncLobby(SyncRoom):
    def presence_of(self, group: str) -> Any:
        return ("ana", {"name": "Ana"}) if group == "room" else "bob"


LOBBIES = pytest.mark.parametrize("lobby", [Lobby, SyncLobby])


async def presence(watching: Client, member: str, event: str) -> Any:
    while (frame := await watching.receive()) and (frame.get("member"), frame.get("event")) != (member, event):
        pass
    return frame


@LOBBIES
async def test_presence(layer: AnyioChannelLayer, lobby: Any) -> None:
    async with client(lobby) as ana:
        joined = await ana.ask("join", group="room", last=1)
        assert (joined["member"], joined["members"]) == ("ana", {"ana": [{"name": "Ana"}]})
        assert joined["complete"]
        channel, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", channel, member="guest")
        came = await presence(ana, "guest", "joined")
        assert came == {"type": "presence", "group": "room", "event": "joined", "member": "guest", "metas": [{}]}
        await layer.group_add("room", channel, member="guest", meta={"at": "door"})
        assert (await presence(ana, "guest", "updated"))["metas"] == [{"at": "door"}]
        await layer.group_discard("room", channel)
        left = {"type": "presence", "group": "room", "event": "left", "member": "guest"}
        assert await presence(ana, "guest", "left") == left
        # It stays where it was in the group's history.
        await layer.broadcast("room", json=1)
        assert (await ana.receive())["message"] == 1
        await ana.ask("leave", group="room")
        await layer.group_add("room", other, member="late")
        late = {"type": "presence.changed", "group": "room", "joined": {}, "updated": {}, "left": ["late"]}
        assert (await ana.ask("join", group="hall"))["members"] == {"bob": [{}]}
        (node,) = layer._dispatcher.nodes
        [own] = [each.name for each in node.local_channels if "!1." in each.name]
        await layer.send(own, late)
        assert (await ana.ask("ping"))["type"] in ("ping", "presence")

    class Large(lobby):  # type: ignore[misc]
        max_members = 0

    async with client(Large) as bob:
        assert (await bob.ask("join", group="hall"))["members"] is None


@LOBBIES
async def test_presence_where_there_is_none(lobby: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AnyioChannelLayer()

    async def refuse(*arguments: Any, **options: Any) -> None:
        if options:
            raise NotSupported("this layer has no presence")
        await AnyioChannelLayer.group_add(layer, *arguments)

    monkeypatch.setattr(layer, "group_add", refuse)
    async with default_layer(layer), client(lobby) as ana:
        assert (await ana.ask("join", group="room"))["members"] is None
        assert (await ana.ask("leave", group="room"))["type"] == "left"


@LOBBIES
async def test_over_the_layer_of_another_package(lobby: Any) -> None:
    layer = ChannelsOwnLayer()
    async with default_layer(layer):
        async with client(lobby) as ana:
            joined = await ana.ask("join", group="room")
            assert (joined["history"], joined["members"]) == (False, None)
            await layer.group_send("room", {"type": "group.message", "message": 1})
            assert (await ana.receive())["message"] == 1
        assert not layer.groups.get("room")


@BOTH
async def test_the_broker_is_away_or_refuses(room: Any) -> None:
    (layer,) = layers(1, publish_timeout=1.0)
    async with default_layer(layer), client(room) as ana:
        error = await ana.ask("join", group="secret")
        assert (error["code"], error["reason"]) == ("refused", "SubscriptionRefused")
        assert (await ana.ask("join", group="room"))["type"] == "joined"
        await take_down(layer)
        error = await ana.ask("join", group="hall")
        assert (error["code"], error["frame"]) == ("unavailable", None)
        assert await ana.closed() == 4013


@BOTH
async def test_who_sends_while_the_broker_is_away_is_to_come_back(layer: AnyioChannelLayer, room: Any) -> None:
    class Away(room):  # type: ignore[misc]
        def received(self, message: Any, group: str | None) -> None:
            raise ListenerClosed("No connection to the broker")

    async with client(Away) as ana:
        error = await ana.ask("message", message=1)
        assert (error["code"], error["frame"]) == ("unavailable", None)
        assert await ana.closed() == 4013


class Disconnected(RuntimeError):
    """As Daphne's."""


@BOTH
@pytest.mark.parametrize("error", [BrokenPipeError("gone"), Disconnected("Attempt to send on a closed protocol")])
async def test_a_client_that_leaves_while_it_is_told_something_is_no_error(
    layer: AnyioChannelLayer, room: Any, error: Exception
) -> None:
    class Leaving(room):  # type: ignore[misc]
        def send(self, text_data: str) -> Any:
            if json.loads(text_data)["type"] in ("ping", "message"):
                raise error
            return super().send(text_data)

    async with client(Leaving) as ana:
        await ana.send("ping")
        await ana.ask("join", group="room")
        await ana.send("message", group="room", message=1)
        assert (await ana.ask("leave", group="room"))["type"] == "left"


async def test_other_errors_of_a_send_are_not_hidden(layer: AnyioChannelLayer) -> None:
    class Broken(Room):
        def send(self, text_data: str) -> Any:  # type: ignore[override]
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        async with client(Broken, hello=False) as ana:
            await ana.send("hello", version=1)
            await asyncio.wait_for(asyncio.shield(ana.socket.future), PATIENCE)


async def test_a_coroutine_function_allows_nothing_in_a_synchronous_consumer(layer: AnyioChannelLayer) -> None:
    class Wrong(SyncRoom):
        async def may_join(self, group: str) -> bool:  # type: ignore[override]
            return False

    with pytest.raises(TypeError, match=r"Wrong\.may_join must not be a coroutine function"):
        async with client(Wrong) as ana:
            await ana.send("join", group="vault")
            await asyncio.wait_for(asyncio.shield(ana.socket.future), PATIENCE)
