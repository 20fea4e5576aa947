"""What to change about an MQTT broker: rights, what it offers, its limits, TLS."""

from __future__ import annotations

import anyio

from ...core.diagnosis import tls_finding
from ...core.exceptions import PublishRefused, SubscriptionRefused
from ...core.inspection import Finding
from .packets import LARGEST_PACKET
from .session import Session
from .subscriptions import Subscription
from .topics import to_topic

_VERSION = b"$SYS/broker/version"
_VERSION_SECONDS = 1.0
_ENVELOPE_BYTES = 1024
"""What a message needs besides itself, at most."""


async def diagnose(session: Session, largest_message: int) -> list[Finding]:
    """See `SupportsDiagnosis`."""
    address = session.address
    return [
        tls_finding(
            address, session.host, encrypted=session.is_encrypted, cure="Write mqtts:// with a broker's port for TLS"
        ),
        _queues(session),
        _limits(session, largest_message),
        await _version(session),
        Finding("unknown", f"{address} has no clock that MQTT could ask for; those of the nodes are compared"),
        await _rights(session),
    ]


async def _rights(session: Session) -> Finding:
    """Try a group. To be called last: mosquitto closes the connection after it has refused a message."""
    topic = to_topic(f"{session.scope}g:doctor")
    try:
        await session.subscribe(Subscription(topic, topic.decode(), handler=lambda payload: None))
        await session.publish(topic, b"")
    except (SubscriptionRefused, PublishRefused) as error:
        cure = "Allow the user to read and write the topics of groups and nodes (mosquitto: `topic readwrite +`)"
        return Finding("error", str(error), cure)
    await session.unsubscribe(topic)
    return Finding("ok", f"The user at {session.address} may read and write the topics of groups")


def _queues(session: Session) -> Finding:
    if session.has_queues:
        text = f"{session.address} has what normal channels need; their messages are in the memory of the nodes"
        return Finding("ok", text)
    text = f"{session.address} has no shared subscriptions or retained messages, so there are no normal channels"
    return Finding("error", text, "Enable both (mosquitto: retain_available true), or use Redis or PostgreSQL for them")


def _limits(session: Session, largest_message: int) -> Finding:
    limit, address = session.largest_packet, session.address
    if limit < min(largest_message + _ENVELOPE_BYTES, LARGEST_PACKET):
        return Finding(
            "warning",
            f"{address} takes packets of {limit} bytes at most, and a message may have {largest_message}",
            "Raise the broker's limit (mosquitto: max_packet_size), or lower max_message_size in CONFIG",
        )
    return Finding("ok", f"{address} takes packets of {limit} bytes")


async def _version(session: Session) -> Finding:
    """Read what most brokers retain under ``$SYS``, and few let every user read."""
    unknown = Finding(
        "unknown", f"{session.address} does not say which version it is: $SYS/broker/version is not to be read"
    )
    arrived, versions = anyio.Event(), list[bytes]()

    def receive(payload: bytes) -> None:
        versions.append(payload)
        arrived.set()

    try:
        await session.subscribe(Subscription(_VERSION, _VERSION.decode(), handler=receive, retained=True))
    except SubscriptionRefused:
        return unknown
    with anyio.move_on_after(_VERSION_SECONDS):
        await arrived.wait()
    await session.unsubscribe(_VERSION)
    if not versions:
        return unknown
    shown = "".join(letter for letter in versions[0][:100].decode(errors="replace") if letter.isprintable())
    return Finding("ok", f"{session.address} is {shown}")
