"""Work until it is acknowledged: the holders of an event, and what is pending at a node."""

from __future__ import annotations

from collections.abc import Awaitable

from django_anyio_channels.brokers.common.acknowledgement import CountedAckHandle, PendingDeliveries
from django_anyio_channels.core.events import DONE


def test_the_last_holder_acknowledges() -> None:
    acknowledged: list[bool] = []

    def acknowledge() -> Awaitable[None]:
        acknowledged.append(True)
        return DONE

    ack_handle = CountedAckHandle(acknowledge)
    ack_handle.retain()
    ack_handle.release()
    assert acknowledged == []
    ack_handle.release()
    assert acknowledged == [True]


def test_what_is_visible_to_other_nodes_again_is_forgotten_here() -> None:
    pending = PendingDeliveries[str](60.0)
    for number in range(10):
        pending.add("jobs", b"%d" % number, now=float(number))
    pending.add("jobs", b"0", now=30.0)
    pending.add("mail", b"0", now=66.5)
    assert pending.pop_all() == {"jobs": [b"7", b"8", b"9", b"0"], "mail": [b"0"]}
    assert len(pending) == 0


def test_what_is_acknowledged_is_not_pending() -> None:
    pending = PendingDeliveries[str](60.0)
    pending.add("jobs", b"0", now=0.0)
    pending.discard("jobs", b"0")
    pending.discard("jobs", b"0")
    assert pending.pop_all() == {}
