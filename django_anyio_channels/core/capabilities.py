"""What a layer may offer besides the verbs of `BaseChannelLayer`: protocols, tested with `isinstance`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from .events import Event, PublishResult
from .exceptions import NotSupported
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
            f"use a layer that redelivers: redis+streams://, or memory:// in one process"
        )
    return layer


@runtime_checkable
class SupportsBlockingPublish(Protocol):
    """A layer that accepts messages at once from any thread, connected or not, with or without an event loop."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        """`BaseChannelLayer.publish` for callers that cannot await."""

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put` for callers that cannot await."""


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
