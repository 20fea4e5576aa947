"""Every error of the package; each message names the thing that failed and the cure."""

from __future__ import annotations


class ChannelLayerError(Exception):
    """Base class of the errors below."""


class ListenerClosed(ChannelLayerError):
    """The broker cannot be reached, or the session is over.

    Nothing was published by the call that raised it, unless it is a `DeliveryUnknown`.
    """


class ChannelClosed(ListenerClosed):
    """The `Channel` is not open, or not any more; nothing was done."""


class DeliveryUnknown(ListenerClosed):
    """The connection broke while a message was on its way: it may or may not have been accepted."""


class PayloadTooLarge(ChannelLayerError, ValueError):
    """The encoded message is larger than the broker or the settings allow."""


class QueueFull(ChannelLayerError):
    """The queue holds as many messages as its capacity allows; nothing was put."""

    def __init__(self, queue: str, capacity: int) -> None:
        super().__init__(queue, capacity)
        self.queue = queue
        self.capacity = capacity

    def __str__(self) -> str:
        return f"Queue {self.queue} is full (capacity {self.capacity})"


class SubscriberFull(ChannelLayerError):
    """A subscriber that closes when it is full was read too slowly: events after the ones that it held are lost."""


class PositionLost(ChannelLayerError):
    """The history of a group does not reach back to a position: what came after it is lost."""


class InvalidPosition(ChannelLayerError, ValueError):
    """The string is not a position that a layer has made."""


class DecodeError(ChannelLayerError, ValueError):
    """A payload was not written by this serializer, or was encrypted with another key."""


class NotSupported(ChannelLayerError):
    """This broker cannot do what was asked; the message says which can."""


class SubscriptionRefused(ChannelLayerError):
    """The broker refused a subscription, for example because a permission is missing."""


class PublishRefused(ChannelLayerError):
    """The broker refused a message, for example because a permission is missing; nothing was published."""


class InvalidOption(ChannelLayerError, ValueError):
    """An option of a layer, or a key of CONFIG, has a value of the wrong type or range; the value is not shown."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(problem, cure)
        self.problem = problem
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.problem}. {self.cure}"


class MissingDriver(ChannelLayerError, ImportError):
    """The broker's client library is not installed; the message names the extra that brings it."""


def drop_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of an error and of its causes; what they say stays.

    Debug pages and error reports show the local variables of their frames, and a driver that logs in has passwords in
    them. The variables alone cannot be cleared: a frame may be that of a coroutine that still runs, which would end.
    """
    seen = set[int]()
    pending = [error]
    while pending:
        each = pending.pop()
        seen.add(id(each))
        each.__traceback__ = None
        further = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        pending += [one for one in further if one is not None and id(one) not in seen]
