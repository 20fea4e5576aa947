"""`django.sending.sends`: what cannot be sent, and what has reached some groups only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.exceptions import MessageTooLarge

from django_anyio_channels import (
    AnyioChannelLayer,
    DeliveryUnknown,
    InMemoryBroker,
    InMemoryChannelLayer,
    ListenerClosed,
    PayloadTooLarge,
    PublishRefused,
    PublishResult,
)
from django_anyio_channels.django.messages.envelope import MOST_NAMES
from django_anyio_channels.django.sending.sends import publish_all

pytestmark = pytest.mark.anyio

MESSAGE = {"type": "x"}
ERRORS = {
    "large": PayloadTooLarge("too large"),
    "closed": ListenerClosed("closed"),
    "unknown": DeliveryUnknown("unknown"),
    "refused": PublishRefused("refused"),
}


class RefusingLayer(InMemoryChannelLayer):
    """It raises what the name of a group says."""

    publish_blocking = None  # type: ignore[assignment]

    async def publish(self, group: str, message: bytes) -> PublishResult:
        error = ERRORS.get(group.rpartition(":")[2])
        if error is not None:
            raise error
        return await super().publish(group, message)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def layer() -> Any:
    made = AnyioChannelLayer(layer=RefusingLayer, options={"broker": InMemoryBroker()})
    yield made
    await made.close()


async def error_of(layer: AnyioChannelLayer, *arguments: Any, **options: Any) -> Exception:
    """What a call and its synchronous twin raise alike."""
    call = sync_to_async(layer.group_send_sync, thread_sensitive=False)
    with pytest.raises(Exception, match=".") as of_sync:
        await call(*arguments, **options)
    with pytest.raises(of_sync.type) as caught:
        await layer.group_send(*arguments, **options)
    return caught.value


@pytest.mark.parametrize(
    ("groups", "expected", "text"),
    [
        (["good", "refused"], PublishRefused, "refused"),
        (["good", "closed", "other"], DeliveryUnknown, "The message has reached 2 of 3 groups: The connection to"),
        (["large"], MessageTooLarge, "too large"),
        (["good", "large"], MessageTooLarge, "too large"),
    ],
)
async def test_what_has_reached_some_groups_only(
    layer: AnyioChannelLayer, groups: list[str], expected: type[Exception], text: str
) -> None:
    error = await error_of(layer, groups, MESSAGE)
    assert type(error) is expected
    assert text in str(error)


@pytest.mark.parametrize(
    ("groups", "expected", "text"),
    [
        (["good", "closed", "other"], DeliveryUnknown, "The message has reached 2 of 3 groups: closed"),
        (["closed", "unknown"], DeliveryUnknown, "unknown"),
        (["closed", "closed"], ListenerClosed, "closed"),
        (["closed"], ListenerClosed, "closed"),
    ],
)
async def test_groups_at_brokers_some_of_which_are_down(
    groups: list[str], expected: type[Exception], text: str
) -> None:
    async def publish(group: str, payload: bytes) -> PublishResult:
        if group in ERRORS:
            raise ERRORS[group]
        return PublishResult()

    node: Any = SimpleNamespace(channel=None, publish=publish)
    with pytest.raises(expected, match=text) as caught:
        await publish_all(node, groups, b"x", None)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "text"),
    [
        ([], {}, ValueError, "There is no group to send to"),
        (["g"] * (MOST_NAMES + 1), {}, ValueError, f"group has 257 names; at most {MOST_NAMES} fit"),
        (["a room"], {}, TypeError, "Group name must be a valid"),
        ([7], {}, TypeError, "Group name must be a valid"),
        (7, {}, TypeError, "Group name must be a valid"),
        ("g", {"exclude": "a channel"}, TypeError, "Channel name must be a valid"),
        ("g", {"exclude": [b"c"]}, TypeError, "Channel name must be a valid"),
        ("g", {"exclude": 7}, TypeError, "Channel name must be a valid"),
        ("g", {"exclude": ["c"] * (MOST_NAMES + 1)}, ValueError, "exclude has 257 names"),
        (
            "g",
            {"idempotency_key": ""},
            TypeError,
            "idempotency_key must be a non-empty str, such as 'order-7', not str",
        ),
        ("g", {"idempotency_key": 7}, TypeError, "not int"),
    ],
)
async def test_arguments_that_cannot_be(
    layer: AnyioChannelLayer, arguments: Any, options: dict[str, Any], expected: type[Exception], text: str
) -> None:
    error = await error_of(layer, arguments, MESSAGE, **options)
    assert isinstance(error, expected)
    assert text in str(error)


async def test_a_message_that_is_no_message(layer: AnyioChannelLayer) -> None:
    assert isinstance(await error_of(layer, ["g", "h"], {"no": "type"}), ValueError)
    small = AnyioChannelLayer(max_message_size=10)
    assert isinstance(await error_of(small, ["g", "h"], {"type": "x" * 10}), MessageTooLarge)


def test_what_a_database_refuses_in_a_transaction_is_channels_exception() -> None:
    class Refusing:
        def publish_all_sync(self, topics: list[str], payload: bytes) -> None:
            raise PayloadTooLarge("too large for one row")

    refusing: Any = Refusing()
    with pytest.raises(MessageTooLarge, match="too large for one row"):
        AnyioChannelLayer()._send_to_groups_sync("g", MESSAGE, None, None, transaction=refusing)
