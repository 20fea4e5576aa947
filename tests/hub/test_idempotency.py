"""`hub.idempotency`: a call whose answer was lost is repeated, and says so if that fails, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from django_anyio_channels import Channel, DeliveryUnknown, ListenerClosed, NotSupported, PublishResult
from django_anyio_channels.core.encryption import Encryption
from django_anyio_channels.core.events import BoundQueue
from django_anyio_channels.hub.session import Backoff
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

pytestmark = pytest.mark.anyio

LOST = ListenerClosed("the reply was lost")


class RememberingLayer(ScriptedLayer):
    """It remembers keys over its sessions; the first ``lost`` calls of each key are accepted and not answered."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.lost = lost
        self.keys: dict[tuple[str, str], int] = {}
        self.put_messages: list[tuple[str, bytes]] = []

    async def publish_once(self, group: str, message: bytes, *, key: str, seconds: float) -> PublishResult:
        if not self._tried(group, key):
            await self.publish(group, message)
        self._answer(group, key)
        return PublishResult(1, "position", [BoundQueue("jobs", 100, 60.0)])

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        if not self._tried(queue, key):
            self.put_messages.append((queue, message))
        self._answer(queue, key)

    def _tried(self, name: str, key: str) -> int:
        self._require_open()
        tried = self.keys.get((name, key), 0)
        self.keys[name, key] = tried + 1
        return tried

    def _answer(self, name: str, key: str) -> None:
        if self.keys[name, key] <= self.lost:
            raise LOST

    def _require_open(self) -> None:
        if not self.open:
            raise LOST


@pytest.fixture(autouse=True)
async def _time_limit() -> AsyncIterator[None]:
    with anyio.fail_after(TIME_LIMIT):
        yield


def channel_of(layer: ScriptedLayer, encryption: Encryption | None = None) -> Channel:
    return Channel(layer, encryption=encryption, backoff=Backoff(first=0.0, longest=0.0))


@pytest.mark.parametrize("encryption", [None, Encryption(["a key for the tests"])], ids=["plain", "encrypted"])
async def test_a_lost_answer_is_asked_for_again(encryption: Encryption | None) -> None:
    layer = RememberingLayer(lost=2)
    async with channel_of(layer, encryption) as channel:
        for _ in range(2):
            assert await channel.idempotent.publish("g", b"x", "k") == PublishResult(1, "position")
        assert channel.outages == 4  # two for the group, two for the queue that is bound to it
    assert [group for group, _ in layer.published] == ["g"]
    assert [queue for queue, _ in layer.put_messages] == ["jobs"]
    assert (layer.published == [("g", b"x")]) == (encryption is None)


async def test_it_is_unknown_if_answers_are_lost_again_and_again() -> None:
    layer = RememberingLayer(lost=3)
    async with channel_of(layer) as channel:
        with pytest.raises(DeliveryUnknown, match="to g was on its way"):
            await channel.idempotent.publish("g", b"x", "k")
        with pytest.raises(DeliveryUnknown, match="to queue jobs was on its way"):
            await channel.idempotent.put("jobs", b"x", capacity=1, expiry=1.0, key="k")


async def test_it_is_unknown_if_there_is_no_connection_any_more() -> None:
    layer = RememberingLayer(lost=1)
    async with Channel(layer, publish_timeout=0.05, backoff=Backoff(first=0.0, longest=0.0)) as channel:
        await channel.connected()
        layer.fail("connect", *[ListenerClosed("down")] * 10_000)
        with pytest.raises(DeliveryUnknown, match="the reply was lost") as caught:
            await channel.idempotent.publish("g", b"x", "k")
        assert isinstance(caught.value.__cause__, ListenerClosed)
        with pytest.raises(ListenerClosed, match="No connection") as nothing_sent:
            await channel.idempotent.publish("g", b"x", "k")
        assert not isinstance(nothing_sent.value, DeliveryUnknown)


async def test_a_broker_without_memory_says_so() -> None:
    async with channel_of(ScriptedLayer()) as channel:
        with pytest.raises(NotSupported, match="ScriptedLayer cannot remember idempotency keys; use Redis, PostgreSQL"):
            await channel.idempotent.publish("g", b"x", "k")
