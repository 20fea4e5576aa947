"""What a layer may offer besides the verbs of `BaseChannelLayer`: protocols, tested with `isinstance`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from .events import Event, PublishResult
from .exceptions import NotSupported
from .inspection import Finding, QueueState
from .layer import BaseChannelLayer


@runtime_checkable
class SupportsAcknowledgement(Protocol):
    """A layer that delivers an event again, to another consumer, until one has acknowledged it.

    Such an event carries an `AckHandle`, retained once for its receiver, and counts its deliveries.
    """

    @property
    def consumer_group(self) -> str | None:
        """The consumer group of subscriptions that name none."""

    @property
    def redeliver_after(self) -> float:
        """Seconds after which an event that was not acknowledged goes to another consumer."""

    @property
    def deliver_at_most(self) -> int:
        """How often an event is delivered; one that comes once more is for the dead letters."""

    async def join(self, group: str, consumer_group: str) -> None:
        """Keep what is published to ``group`` from now on for the consumers of ``consumer_group``.

        Once a consumer has joined, joining again changes nothing.
        """

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        """Wait for the next event of a group that no other consumer has; cancelling loses nothing.

        Any number of tasks may wait, for any number of consumer groups; `notify_published` wakes them.
        """

    def notify_published(self, group: str) -> None:
        """Called when a message was published to ``group``."""

    async def receive_job(self, queue: str) -> Event[bytes]:
        """Wait like `BaseChannelLayer.take`, for a message that must be acknowledged.

        A program takes from one queue either with or without acknowledgement, not both.
        """


def require_acknowledgement(layer: BaseChannelLayer) -> SupportsAcknowledgement:
    """Return ``layer``. Raises `NotSupported` if it does not support acknowledgement."""
    if not isinstance(layer, SupportsAcknowledgement):
        raise NotSupported(
            f"{type(layer).__name__} delivers each message once, so there is nothing to acknowledge; "
            f"use a layer that redelivers: redis+streams://, postgresql://, or memory:// in one process"
        )
    return layer


class PresenceRecord(NamedTuple):
    """What a node says of its members; see `SupportsPresence`."""

    name: str
    key: str
    """ASCII letters, digits and dots; it begins with the id of the node."""
    content: bytes
    """Empty to remove the record."""


@runtime_checkable
class SupportsPresence(Protocol):
    """A layer whose broker keeps small records under a name, for whoever reads them, and forgets them in time."""

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        """Put and remove records; each is kept for ``ttl`` seconds. Of the same name and key the last one counts.

        In effect for every later `read_presence` when it returns. It may be repeated.
        """

    async def read_presence(self, name: str) -> dict[str, bytes]:
        """Return the contents of all records of a name whose time is not over, by their keys."""


def require_presence(layer: BaseChannelLayer) -> SupportsPresence:
    """Return ``layer``. Raises `NotSupported` if it does not support presence."""
    if not isinstance(layer, SupportsPresence):
        raise NotSupported(
            f"{type(layer).__name__} keeps no presence, so group_add takes no member; override put_presence and "
            f"read_presence, or use a layer of this package"
        )
    return layer


class QueueLength(NamedTuple):
    """How many messages a broker has for the readers of a queue; some of them may have expired."""

    waiting: int
    pending: int
    """Delivered, and not acknowledged."""


@runtime_checkable
class SupportsQueueLength(Protocol):
    """A layer whose broker counts the messages of a queue at little cost."""

    async def queue_length(self, queue: str) -> QueueLength:
        """Return how many messages wait in a queue, and how many readers have not acknowledged."""


@runtime_checkable
class SupportsBlockingPublish(Protocol):
    """A layer that accepts messages at once from any thread, connected or not, with or without an event loop."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        """`BaseChannelLayer.publish` for callers that cannot await."""

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put` for callers that cannot await."""


@runtime_checkable
class SupportsIdempotency(Protocol):
    """A layer whose broker remembers keys, so that a message can be sent again without arriving twice.

    A key belongs to one group or queue. It is remembered for ``seconds``, as long as the broker keeps its memory.
    """

    async def publish_once(self, group: str, message: bytes, *, key: str, seconds: float) -> PublishResult:
        """`BaseChannelLayer.publish`, or return what the first call with this key returned.

        The bound queues are those of now: whether the first call has put into them is unknown.
        """

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        """`BaseChannelLayer.put`, or do nothing if a call with this key has put its message."""


Result = TypeVar("Result")
QueryGenerator = Generator["tuple[str, Sequence[object]]", "Sequence[Sequence[Any]]", Result]
"""Yields SQL statements with their parameters (``$1``, ``$2``, ...) and is sent the rows of each."""


@runtime_checkable
class SupportsTransactions(Protocol):
    """A layer whose broker is a database: the statements that publish in a transaction of the caller's connection.

    They need no connected layer. ``encoding`` is the ``server_encoding`` of the connection that runs them.
    """

    def publish_in_transaction(
        self, group: str, message: bytes, *, encoding: str
    ) -> QueryGenerator[PublishResult | None]:
        """`BaseChannelLayer.publish`, at the commit; the result knows no position.

        Returns None if the tables that it needs do not exist; `BaseChannelLayer.purge` makes them.
        """

    def put_in_transaction(
        self, queue: str, message: bytes, *, capacity: int, expiry: float
    ) -> QueryGenerator[bool | None]:
        """`BaseChannelLayer.put`; returns whether there was room.

        Returns None if the tables that it needs do not exist; `BaseChannelLayer.purge` makes them.
        """

    def count_subscribers_in_transaction(self, group: str) -> QueryGenerator[int]:
        """`BaseChannelLayer.count_subscribers`, as seen in the database of that connection."""


@runtime_checkable
class SupportsInspection(Protocol):
    """A layer that knows what its queues hold. It changes nothing, and creates nothing that is missing."""

    @property
    def queues_are_at_nodes(self) -> bool:
        """Whether each node knows the queues that it holds itself, and the broker knows none."""

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        """Return the queues whose names begin with ``prefix``, up to ``limit`` of them."""


@runtime_checkable
class SupportsHistoryInspection(Protocol):
    """A layer with a history whose events can be counted and removed."""

    async def count_history(self, prefix: str) -> dict[str, int]:
        """Return the groups whose names begin with ``prefix``, and how many events the history of each has."""

    async def remove_from_history(self, group: str, positions: Sequence[str]) -> int:
        """Remove the events at these positions, and return how many there were.

        Who resumes the group from an earlier position gets `PositionLost` or a `Gap` in their place.
        """


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """A layer that can tell whether its broker is set up well."""

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """Return what is good and what is to be changed, for messages of up to so many bytes.

        Raises `ListenerClosed`. What the broker does not say is a finding of the level ``unknown``.
        """
