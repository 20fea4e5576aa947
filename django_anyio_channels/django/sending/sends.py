"""Messages to several groups, to all but some members, and with an idempotency key."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from ...core.events import PublishResult
from ...core.exceptions import ChannelClosed, DeliveryUnknown, ListenerClosed
from ..base import REFUSALS, LayerBase, encode, translate
from ..messages.envelope import MOST_NAMES, Header, beginning_without, close_envelope
from ..nodes.node import Node
from ..process.cross_loop import EventLoopClosed

Groups = str | Iterable[str]
"""One group or several."""
Channels = str | Iterable[str] | None
"""One channel, several, or none."""
Results = Any
"""A `PublishResult`, a list of them, or None; who needs none passes these methods where such are wanted."""

_ID_BYTES = 8


class TargetedSends(LayerBase):
    """What `AnyioChannelLayer` sends in another way than to one channel or to all of one group."""

    def address_groups(
        self, groups: Groups, message: dict[str, Any], exclude: Channels = None, marks: Header | None = None
    ) -> tuple[list[str], bytes]:
        """Return the topics of one or more groups, and the payload for all of them; ``marks`` says what else it is."""
        if isinstance(groups, str) and isinstance(exclude, str) and marks is None:
            beginning = beginning_without(exclude)
            if beginning is not None:
                topic, payload = self.address_group(groups, message)
                return [topic], beginning + payload
        payload = encode(message, self._settings)
        names = _names("group", groups, self.require_valid_group_name)
        if not names:
            raise ValueError("There is no group to send to: name one, or a list of at least one")
        excluded = _names("exclude", exclude, self.require_valid_channel_name) if exclude else []
        several = len(names) > 1
        if several or excluded or marks is not None:
            number = secrets.token_bytes(_ID_BYTES) if several else b""
            header = replace(marks or Header(), exclude=excluded, groups=names if several else [], id=number)
            payload = close_envelope(header, payload)
        return [self._names.groups + name for name in names], payload

    async def _send_to_groups(
        self, groups: Groups, message: dict[str, Any], exclude: Channels, key: str | None, marks: Header | None = None
    ) -> Results:
        topics, payload = self.address_groups(groups, message, exclude, marks)
        _check_key(key)
        if len(topics) == 1 and key is None:
            try:
                await (self._own_node or self._dispatcher).publish(topics[0], payload)
            except REFUSALS as error:
                raise translate(error) from error
            return None
        with _translated():
            results = await self._dispatcher.carry(lambda node: publish_all(node, topics, payload, key))
        return _result(groups, key, results)

    def _send_to_groups_sync(
        self, groups: Groups, message: dict[str, Any], exclude: Channels, key: str | None, marks: Header | None = None
    ) -> Results:
        topics, payload = self.address_groups(groups, message, exclude, marks)
        _check_key(key)
        with _translated():
            if len(topics) == 1 and key is None:
                self._dispatcher.publish_sync(topics[0], payload)
                return None
            results = self._dispatcher.call_sync(
                lambda node: publish_all(node, topics, payload, key),
                repeat_after=(ChannelClosed,) if key is None else (ChannelClosed, EventLoopClosed),
            )
        return _result(groups, key, results)

    async def _send_once(self, channel: str, message: dict[str, Any], key: str) -> None:
        inbox, payload = self.address(channel, message)
        _check_key(key)
        with _translated():
            await self._dispatcher.carry(lambda node: self._put_once(node, channel, inbox, payload, key))

    def _send_once_sync(self, channel: str, message: dict[str, Any], key: str) -> None:
        inbox, payload = self.address(channel, message)
        _check_key(key)
        with _translated():
            self._dispatcher.call_sync(lambda node: self._put_once(node, channel, inbox, payload, key))

    async def _put_once(self, node: Node, channel: str, inbox: str | None, payload: bytes, key: str) -> None:
        idempotent = node.channel.idempotent
        if inbox is None:
            queue, capacity, expiry = self._settings.queue_of(channel)
            await idempotent.put(queue, payload, capacity=capacity, expiry=expiry, key=key)
        else:
            # The inbox is that of many channels, and the key is for one.
            await idempotent.publish(inbox, payload, f"{channel} {key}")


async def publish_all(node: Node, topics: list[str], payload: bytes, key: str | None) -> list[PublishResult]:
    """Publish to several topics at once: the calls share a round trip, as concurrent calls do.

    Raises what `Channel.publish` raises; `DeliveryUnknown` if the message has reached some of them.
    """
    channel = node.channel
    if key is None:
        publishing = [node.publish(topic, payload) for topic in topics]
    else:
        publishing = [channel.idempotent.publish(topic, payload, key) for topic in topics]
    if len(publishing) == 1:
        return [await publishing[0]]
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        error = next((each for each in errors if isinstance(each, DeliveryUnknown)), errors[0])
        if isinstance(error, ListenerClosed) and len(errors) < len(topics):
            reached = f"The message has reached {len(topics) - len(errors)} of {len(topics)} groups"
            raise DeliveryUnknown(f"{reached}: {error}") from error
        raise error
    return [outcome for outcome in outcomes if isinstance(outcome, PublishResult)]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except REFUSALS as error:
        raise translate(error) from error


def is_plain(groups: Groups, *, exclude: Channels = None, idempotency_key: str | None = None) -> bool:
    """Return whether a message is simply for all members of one group."""
    return isinstance(groups, str) and not exclude and idempotency_key is None


def _result(groups: Groups, key: str | None, results: list[PublishResult]) -> Results:
    if key is None:
        return None
    return results[0] if isinstance(groups, str) else results


def _names(argument: str, given: Any, check: Callable[[str], object]) -> list[str]:
    if isinstance(given, str):
        check(given)
        return [given]
    names = list(given) if isinstance(given, Iterable) else [given]
    if len(names) > MOST_NAMES:
        raise ValueError(f"{argument} has {len(names)} names; at most {MOST_NAMES} fit into one message")
    for name in names:
        check(name)
    return list(dict.fromkeys(names))


def _check_key(key: object) -> None:
    if key is not None and (not isinstance(key, str) or not key):
        raise TypeError(f"idempotency_key must be a non-empty str, such as 'order-7', not {type(key).__name__}")
