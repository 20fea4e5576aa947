"""`Recipients`: what a node remembers of messages to several groups, and what strangers may write."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from django_anyio_channels import DecodeError, Event
from django_anyio_channels.core.notifier import NewWaiter
from django_anyio_channels.core.serializers import MARKER, MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.django.consumers.consumer_loop import Inbox
from django_anyio_channels.django.messages.envelope import READY, Header, close_envelope
from django_anyio_channels.django.names import BrokerNames
from django_anyio_channels.django.nodes.recipients import _REMEMBERED_MESSAGES, Recipients
from django_anyio_channels.hub.replay import ReplaySink
from django_anyio_channels.hub.subscriber import Subscriber, Timestamped

NAMES = BrokerNames("p")
G, H = NAMES.group("g"), NAMES.group("h")


def no_waiter() -> NewWaiter:
    raise AssertionError("nobody waits")


def mailbox(name: str = "a!1") -> Subscriber:
    stats = DeliveryStats(10**6)
    return Subscriber(name, capacity=2, expiry=None, decode=bytes, new_waiter=no_waiter, stats=stats)  # type: ignore[arg-type]


def entry(header: Header, topic: str = G) -> Timestamped:
    return time.monotonic(), Event(topic, close_envelope(header, b"body"))


@dataclass
class Sink:
    """One that is no channel's."""

    got: list[bytes] = field(default_factory=list)

    def put(self, entry: Timestamped) -> None:
        self.got.append(entry[1].message)

    def close(self) -> None: ...

    __hash__ = object.__hash__


@dataclass
class Node:
    """What `Recipients` asks."""

    memberships: set[tuple[str, str]]
    errors: list[str] = field(default_factory=list)
    inboxes: dict[Subscriber, Inbox] = field(default_factory=dict)

    def recipients(self) -> Recipients:
        return Recipients(
            NAMES,
            lambda *key: Sink() if key in self.memberships else None,
            lambda name, error: self.errors.append(f"{name}: {error}"),
            MessagePackSerializer().decode,
            self.inboxes.get,
        )


def test_who_joins_between_two_copies_gets_both_rather_than_none() -> None:
    node, box = Node({(G, "a!1")}), mailbox()
    recipients = node.recipients()
    header = Header(groups=["g", "h"], id=b"1")
    assert list(recipients.fan_out(entry(header), [box])[1]) == [box]
    node.memberships.add((H, "a!1"))
    assert list(recipients.fan_out(entry(header, H), [box])[1]) == [box]


def test_the_first_copy_counts_whichever_it_is() -> None:
    recipients, box, sink = Node({(G, "a!1"), (H, "a!1")}).recipients(), mailbox(), Sink()
    for number, (first, second) in enumerate([(G, H), (H, G)]):
        header = Header(groups=["g", "h"], id=b"%d" % number)
        found, sinks = recipients.fan_out(entry(header, first), [box, sink])
        assert found[1].message == b"body"
        assert list(sinks) == [box, sink]
        assert list(recipients.fan_out(entry(header, second), [box, sink])[1]) == [sink]
        # History and live events may overlap: the same copy is no second one.
        assert list(recipients.fan_out(entry(header, first), [ReplaySink(box, str.__gt__)])[1])


def test_only_the_last_messages_are_remembered() -> None:
    recipients, box = Node({(G, "a!1"), (H, "a!1")}).recipients(), mailbox()
    for number in range(_REMEMBERED_MESSAGES + 1):
        recipients.fan_out(entry(Header(groups=["g", "h"], id=b"%d" % number)), [box])
    assert len(recipients._copies) == _REMEMBERED_MESSAGES
    assert list(recipients.fan_out(entry(Header(groups=["g", "h"], id=b"0"), H), [box])[1]) == [box]
    assert list(recipients.fan_out(entry(Header(groups=["g", "h"], id=b"99"), H), [box])[1]) == []


def test_what_is_no_envelope_reaches_nobody_and_is_counted() -> None:
    node, box = Node(set()), mailbox()
    recipients = node.recipients()
    forged = Event(G, MARKER + b"nonsense")
    assert list(recipients.fan_out((0.0, forged), [box])[1]) == []
    plain = Event(G, b"plain")
    assert recipients.of_history([forged, plain]) == [plain]
    assert [error.partition(":")[0] for error in node.errors[:1]] == ["p"]
    assert len(node.errors) == 2
    with pytest.raises(DecodeError):
        recipients.for_queue(MARKER, NAMES.queue("jobs"))


def test_a_queue_gets_one_copy() -> None:
    recipients = Node(set()).recipients()
    payload = close_envelope(Header(groups=["g", "h"], id=b"1"), b"body")
    found = [recipients.for_queue(payload, NAMES.queue(name)) for name in ("jobs", "jobs", "other")]
    assert found == [b"body", None, b"body"]
    payload = close_envelope(Header(exclude=["jobs"]), b"body")
    assert [recipients.for_queue(payload, NAMES.queue(name)) for name in ("jobs", "other")] == [None, b"body"]


def test_urgent_messages_come_first_but_do_not_pile_up_without_end() -> None:
    recipients, box, sink = Node(set()).recipients(), mailbox(), Sink()
    box.put((time.monotonic(), Event(G, b"first")))
    for _ in range(20):
        assert list(recipients.fan_out(entry(Header(urgent=True)), [ReplaySink(box, str.__gt__), sink])[1]) == []
    assert sink.got == [b"body"] * 20
    found = [event.message for event in iter(box.receive_nowait, None)]
    assert found[-1] == b"first"
    assert 2 < len(found) < 10


def test_urgent_messages_are_no_history() -> None:
    recipients = Node(set()).recipients()
    events = [
        entry(Header(urgent=True))[1],
        entry(Header(exclude=["a!1"]))[1],
        entry(Header(groups=["g", "h"], id=b"1"))[1],
    ]
    assert [event.message for event in recipients.of_history(events)] == [b"body"] * 2
    assert len(recipients.of_history(events, "a!1")) == 1
    assert recipients.of_history([entry(Header(groups=["g", "h"], id=b"1"), H)[1]], "a!1") == []


@pytest.mark.parametrize(
    "body", [b"\xc1", MessagePackSerializer().encode({"type": "no frame"})], ids=["payload", "message"]
)
def test_a_ready_frame_that_is_none_goes_the_way_of_a_message(body: bytes) -> None:
    recipients, box = Node(set()).recipients(), mailbox()
    forged = Event(G, close_envelope(READY, body))
    found, sinks = recipients.fan_out((0.0, forged), [box])
    assert (found[1].message, list(sinks)) == (body, [box])
