"""Publishing in a transaction of somebody else's: the statements, for whichever driver has the connection."""

from __future__ import annotations

from ...core.capabilities import QueryGenerator
from ...core.events import BoundQueue, PublishResult
from .payloads import channel_name, has_unicode, split, wake_channel
from .peers import COUNT, lock_of
from .statements import EXIST, PUBLISH, PUBLISH_TO_BOUND, PUT_IN_TRANSACTION, texts


def publish(group: str, message: bytes, *, encoding: str) -> QueryGenerator[PublishResult]:
    """Notify, and return the bound queues."""
    payloads = split(message, unicode=has_unicode(encoding))
    ((_, may_be_bound),) = yield PUBLISH, ([channel_name(group)] * len(payloads), payloads)
    bound = (yield PUBLISH_TO_BOUND, ([], [], texts([group.encode()]))) if may_be_bound else []
    queues = [BoundQueue(bytes(queue).decode(), *terms) for topic, queue, *terms in bound if topic is not None]
    return PublishResult(bound_queues=queues)


def queues() -> QueryGenerator[bool]:
    """Whether the tables are there."""
    ((exist,),) = yield EXIST, ()
    return bool(exist)


def put(queue: bytes, message: bytes, *, capacity: int, expiry: float) -> QueryGenerator[bool]:
    """Append to a queue; returns whether there was room."""
    in_text = texts([queue, message])
    ((count,),) = yield PUT_IN_TRANSACTION, (*in_text, expiry, capacity, wake_channel(queue))
    return bool(count)


def count_subscribers(group: str) -> QueryGenerator[int]:
    """Count the nodes that listen to a topic in this database."""
    ((count,),) = yield COUNT, (lock_of(channel_name(group)),)
    return int(count)
