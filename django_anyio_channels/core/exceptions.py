"""Every error of the package; each message names the thing that failed and the cure."""

from __future__ import annotations


class ChannelLayerError(Exception):
    """Base class of the errors below."""


class ListenerClosed(ChannelLayerError):
    """The broker cannot be reached, or the session is over.

    Nothing was published by the call that raised it, unless it is a `DeliveryUnknown`.
    """


class BrokerRefused(ListenerClosed):
    """A broker runs at the address, and does not let us in; the message says what to change."""


class ChannelClosed(ListenerClosed):
    """The `Channel` is not open, or not any more; nothing was done."""


class DeliveryUnknown(ListenerClosed):
    """The connection broke while a message was on its way: it may or may not have been accepted."""


class PayloadTooLarge(ChannelLayerError, ValueError):
    """The encoded message is larger than the broker or the settings allow."""


class QueueFull(ChannelLayerError):
    """The queue holds as many messages as its capacity allows; nothing was put."""


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


class MissingDriver(ChannelLayerError, ImportError):
    """The broker's client library is not installed; the message names the extra that brings it."""
