"""Every metric: its names, its unit, what it means, and which of a layer's numbers it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric. Each also says the layer's alias and the kind of its broker; none says a group or a channel."""

    name: str
    """In Prometheus, without what the type adds."""
    instrument: str
    """In OpenTelemetry."""
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    """In UCUM, as OpenTelemetry has it."""
    meaning: str
    keys: Mapping[str, str]
    """Which number of `AnyioChannelLayer.statistics` it has, for each value of `label`."""
    label: str = ""
    """What tells its values apart; empty if there is one."""


def _counter(
    name: str, instrument: str, unit: str, meaning: str, keys: Mapping[str, str] | str, label: str = ""
) -> Metric:
    return Metric(name, instrument, "counter", unit, meaning, {"": keys} if isinstance(keys, str) else keys, label)


def _gauge(name: str, instrument: str, unit: str, meaning: str, key: str) -> Metric:
    return Metric(name, instrument, "gauge", unit, meaning, {"": key})


_MESSAGES, _SECONDS = "{message}", "s"
_OWN = "anyio_channels."

METRICS = (
    _counter(
        "anyio_channels_published",
        "messaging.client.sent.messages",
        _MESSAGES,
        "Messages that the broker accepted from this process",
        "published",
    ),
    _counter(
        "anyio_channels_publish_failures",
        _OWN + "publish.failures",
        _MESSAGES,
        "Calls that raised: no connection, a full channel, or a message that was refused",
        "publish_failures",
    ),
    _counter(
        "anyio_channels_delivered",
        "messaging.client.consumed.messages",
        _MESSAGES,
        "Messages put into the mailboxes of channels, once for each member of a group",
        "delivered",
    ),
    _counter(
        "anyio_channels_dropped",
        _OWN + "dropped",
        _MESSAGES,
        "Messages dropped because a mailbox or a queue was full, or a payload could not be decoded",
        {
            "capacity": "dropped_capacity",
            "bytes": "dropped_bytes",
            "queue": "dropped_queue",
            "undecodable": "undecodable",
        },
        "reason",
    ),
    _counter(
        "anyio_channels_replaced",
        _OWN + "replaced",
        _MESSAGES,
        "Messages that waited when a newer one with the same key took their place, see the setting overflow",
        "replaced",
    ),
    _counter(
        "anyio_channels_closed_slow",
        _OWN + "closed_slow",
        "{connection}",
        "WebSockets that were closed because their mailbox was full, see the setting overflow",
        "closed_slow",
    ),
    _counter(
        "anyio_channels_expired",
        _OWN + "expired",
        _MESSAGES,
        "Messages dropped because their consumer did not read them in time",
        "expired",
    ),
    _counter(
        "anyio_channels_dead_letters",
        _OWN + "dead_letters",
        _MESSAGES,
        "Messages that were delivered too often, and moved to a group of dead letters",
        "dead_letters",
    ),
    _counter("anyio_channels_outages", _OWN + "outages", "{outage}", "Lost connections to the broker", "outages"),
    _counter(
        "anyio_channels_outage_seconds",
        _OWN + "outage.duration",
        _SECONDS,
        "Time without a connection after it was lost, outages that last included",
        "outage_seconds",
    ),
    _counter(
        "anyio_channels_reconnects",
        _OWN + "reconnects",
        "{reconnect}",
        "Outages that are over",
        "reconnects",
    ),
    _counter(
        "anyio_channels_resumes",
        _OWN + "resumes",
        "{resume}",
        "Channels that came into a group with a history: new ones, and those that came back with a position",
        {result: f"resumes_{result}" for result in ("new", "complete", "lost", "invalid")},
        "result",
    ),
    _gauge("anyio_channels_nodes", _OWN + "nodes", "{node}", "Event loops that read from the broker", "nodes"),
    _gauge(
        "anyio_channels_disconnected",
        _OWN + "disconnected",
        "{connection}",
        "Connections to the broker that are lost now",
        "disconnected",
    ),
    _gauge("anyio_channels_channels", _OWN + "channels", "{channel}", "Channels in use", "channels"),
    _gauge("anyio_channels_topics", _OWN + "topics", "{topic}", "Topics that nodes subscribe to", "topics"),
    _gauge("anyio_channels_members", _OWN + "members", "{member}", "Memberships of channels in groups", "members"),
    _gauge(
        "anyio_channels_oldest_message_seconds",
        _OWN + "oldest_message.age",
        _SECONDS,
        "For how long the oldest unread message has waited in a mailbox",
        "oldest_message",
    ),
    _gauge(
        "anyio_channels_queued",
        _OWN + "queued",
        _MESSAGES,
        "Messages that wait in the normal channels that this process reads",
        "queued",
    ),
    _gauge(
        "anyio_channels_pending",
        _OWN + "pending",
        _MESSAGES,
        "Messages of these channels that were delivered and not acknowledged",
        "pending",
    ),
)

PUBLISH_TIME = Metric(
    "anyio_channels_publish_seconds",
    "messaging.client.operation.duration",
    "histogram",
    _SECONDS,
    "Time from the call until the broker accepted the message",
    {},
)
LAG = Metric(
    "anyio_channels_lag_seconds",
    _OWN + "lag",
    "histogram",
    _SECONDS,
    "Time until a message was in the mailboxes, since it reached the broker or, where that is unknown, this process",
    {},
)
