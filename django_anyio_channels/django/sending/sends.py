"""Messages to several groups, to all but some members, with an idempotency key, and all that are observed.

A method with the argument ``observed`` calls itself with it, if the layer has observers.
"""

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
from ..transactions import TransactionDispatcher
from .observers import Message, Sending, observing

Groups = str | Iterable[str]
"""One group or several."""
Channels = str | Iterable[str] | None
"""One channel, several, or none."""
Key = str | None
Marks = Header | None
Transaction = TransactionDispatcher | None
Results = Any
"""A `PublishResult`, a list of them, or None; who needs none passes these methods where such are wanted."""

_ID_BYTES = 8


class TargetedSends(LayerBase):
    """What `AnyioChannelLayer` sends in another way than to one channel or to all of one group."""

    def address_groups(
        self, groups: Groups, message: Message, exclude: Channels = None, marks: Marks = None
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
        self, groups: Groups, message: Message, exclude: Channels, key: Key, marks: Marks = None, observed: bool = False
    ) -> Results:
        if self._observers and not observed:
            with observing(self._observers, Sending("group", groups, message, marks is None)) as (groups, message):
                return await self._send_to_groups(groups, message, exclude, key, marks, observed=True)
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
        self,
        groups: Groups,
        message: Message,
        exclude: Channels,
        key: Key,
        marks: Marks = None,
        transaction: Transaction = None,
        observed: bool = False,
    ) -> Results:
        if self._observers and not observed:
            sending = Sending("group", groups, message, marks is None, transaction)
            with observing(self._observers, sending) as (groups, message):
                return self._send_to_groups_sync(groups, message, exclude, key, marks, transaction, observed=True)
        topics, payload = self.address_groups(groups, message, exclude, marks)
        _check_key(key)
        with _translated():
            if transaction is not None:
                transaction.publish_all_sync(topics, payload)
                return None
            if len(topics) == 1 and key is None:
                self._dispatcher.publish_sync(topics[0], payload)
                return None
            results = self._dispatcher.call_sync(
                lambda node: publish_all(node, topics, payload, key),
                repeat_after=(ChannelClosed,) if key is None else (ChannelClosed, EventLoopClosed),
            )
        return _result(groups, key, results)

    async def _send_to_channel(self, channel: str, message: Message, key: Key, observed: bool = False) -> None:
        if self._observers and not observed:
            with observing(self._observers, Sending("channel", channel, message)) as (channel, message):
                await self._send_to_channel(channel, message, key, observed=True)
            return
        inbox, payload = self.address(channel, message)
        _check_key(key)
        sender = self._own_node or self._dispatcher
        with _translated():
            if key is not None:
                await self._dispatcher.carry(lambda node: self._put_once(node, channel, inbox, payload, key))
            elif inbox is None:
                await sender.put(channel, payload)
            else:
                await sender.publish(inbox, payload)

    def _send_to_channel_sync(
        self, channel: str, message: Message, key: Key, transaction: Transaction = None, observed: bool = False
    ) -> None:
        if self._observers and not observed:
            sending = Sending("channel", channel, message, transaction=transaction)
            with observing(self._observers, sending) as (channel, message):
                self._send_to_channel_sync(channel, message, key, transaction, observed=True)
            return
        inbox, payload = self.address(channel, message)
        _check_key(key)
        dispatcher = transaction or self._dispatcher
        try:
            if key is not None:
                self._dispatcher.call_sync(lambda node: self._put_once(node, channel, inbox, payload, key))
            elif inbox is None:
                dispatcher.put_sync(channel, payload)
            else:
                dispatcher.publish_sync(inbox, payload)
        except REFUSALS as error:
            raise translate(error) from error

    async def _put_once(self, node: Node, channel: str, inbox: str | None, payload: bytes, key: str) -> None:
        idempotent = node.channel.idempotent
        if inbox is None:
            queue, capacity, expiry = self._settings.queue_of(channel)
            await idempotent.put(queue, payload, capacity=capacity, expiry=expiry, key=key)
        else:
            # The inbox is that of many channels, and the key is for one.
            await idempotent.publish(inbox, payload, f"{channel} {key}")


async def publish_all(node: Node, topics: list[str], payload: bytes, key: Key) -> list[PublishResult]:
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


def _result(groups: Groups, key: Key, results: list[PublishResult]) -> Results:
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
