"""Messages in a database transaction of Django's: sent if it commits, and never if it is rolled back."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.transaction import TransactionManagementError

from ..core.capabilities import QueryGenerator, SupportsTransactions
from ..core.events import BoundQueue, PublishResult
from ..core.exceptions import NotSupported, QueueFull
from ..core.stats import RateLimitedLogger
from .dispatcher import Dispatcher, same_node
from .messages.envelope import READY, payload_for
from .names import channel_of
from .settings import Settings

Result = TypeVar("Result")
Message = dict[str, Any]
Names = str | Iterable[str]

_PARAMETER = re.compile(r"\$(\d+)")


class TransactionalLayer:
    """The sending half of a channel layer, on Django's own connection.

    A message that is sent inside ``transaction.atomic()`` is a part of that transaction. It is delivered when the
    transaction commits, in the order sent, and never if the transaction or the savepoint around it is rolled back, or
    if a process dies before. Nothing is held in this process.

    Outside of a transaction the methods raise Django's ``TransactionManagementError``. Otherwise they raise what the
    layer's own methods raise, and Django's ``DatabaseError`` for what the database refuses.
    """

    def __init__(
        self,
        send: Callable[[str, Message], None],
        group_send: Callable[..., None],
        frame: Callable[..., Message],
    ) -> None:
        self.send_sync = send
        self._group_send = group_send
        self._frame = frame

    async def send(self, channel: str, message: Message) -> None:
        """`AnyioChannelLayer.send`, in the thread of ``sync_to_async``, where Django's connection is."""
        await sync_to_async(self.send_sync, thread_sensitive=True)(channel, message)

    async def group_send(self, group: Names, message: Message, *, exclude: Names | None = None) -> None:
        """`AnyioChannelLayer.group_send`, in the thread of ``sync_to_async``, where Django's connection is."""
        await sync_to_async(self.group_send_sync, thread_sensitive=True)(group, message, exclude=exclude)

    def group_send_sync(self, group: Names, message: Message, *, exclude: Names | None = None) -> None:
        """`group_send` for synchronous code."""
        self._group_send(group, message, exclude)

    async def broadcast(self, group: Names, *, exclude: Names | None = None, **frame: Any) -> None:
        """`AnyioChannelLayer.broadcast`, in the thread of ``sync_to_async``, where Django's connection is."""
        await sync_to_async(self.broadcast_sync, thread_sensitive=True)(group, exclude=exclude, **frame)

    def broadcast_sync(self, group: Names, *, exclude: Names | None = None, **frame: Any) -> None:
        """`broadcast` for synchronous code."""
        self._group_send(group, self._frame(**frame), exclude, READY)


class TransactionDispatcher:
    """Publishes on Django's connection ``using`` of the calling thread."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings, using: str | None) -> None:
        publisher = dispatcher.transactional_publisher
        if publisher is None:
            raise NotSupported(
                "Only a layer on PostgreSQL can send in a transaction: set CONFIG to {'database': 'default'}, "
                "or send when it has committed, by transaction.on_commit()"
            )
        self._publisher: SupportsTransactions = publisher
        self._dispatcher = dispatcher
        self._settings = settings
        self.using = using or settings.database or "default"
        """The alias of the connection."""
        self._same_database: set[tuple[object, ...]] = set()
        self._log = RateLimitedLogger()

    def publish_sync(self, topic: str, payload: bytes) -> None:
        self.publish_all_sync([topic], payload)

    def publish_all_sync(self, topics: Iterable[str], payload: bytes) -> None:
        connection = self._connection()
        encoding = connection.connection.info.parameter_status("server_encoding")
        bound: dict[BoundQueue, str] = {}
        for topic in topics:
            published = self._with_tables(partial(self._publish, connection, topic, payload, encoding), "histories")
            bound.update(dict.fromkeys(published.bound_queues, topic))
        for (queue, capacity, expiry), topic in bound.items():
            message = payload_for(channel_of(queue), payload)
            if message is not None and not self._put(connection, queue, message, capacity, expiry):
                self._log.write(logging.WARNING, "Dropped a message to %s for the full queue %s", topic, queue)

    def put_sync(self, channel: str, payload: bytes) -> None:
        connection = self._connection()
        queue, capacity, expiry = self._settings.queue_of(channel)
        if not self._put(connection, queue, payload, capacity, expiry):
            raise QueueFull(queue, capacity)

    def _with_tables(self, call: Callable[[], Result | None], purpose: str) -> Result:
        """Return the result of a call, which is None as long as its tables do not exist."""
        result = call()
        if result is None:
            # On the layer's own connection: created here, they would block other senders until this transaction ends.
            # A purge creates them all; this one finds nothing.
            self._dispatcher.call_sync(lambda node: node.channel.queues.purge(self._settings.names.nodes))
            result = call()
        if result is None:
            raise NotSupported(
                f"The search_path of {self.using!r} in this transaction does not lead to the tables of {purpose}"
            )
        return result

    def _publish(self, connection: Any, topic: str, payload: bytes, encoding: str) -> PublishResult | None:
        return self._run(connection, self._publisher.publish_in_transaction(topic, payload, encoding=encoding))

    def _put(self, connection: Any, queue: str, payload: bytes, capacity: int, expiry: float) -> bool:
        """Return whether there was room."""

        def put() -> bool | None:
            statements = self._publisher.put_in_transaction(queue, payload, capacity=capacity, expiry=expiry)
            return self._run(connection, statements)

        return self._with_tables(put, "normal channels")

    def _connection(self) -> Any:
        connection: Any = connections[self.using]
        if connection.vendor != "postgresql":
            raise NotSupported(
                f"DATABASES[{self.using!r}] is not PostgreSQL; name the alias of the layer's database: "
                f"in_transaction(using=...)"
            )
        if not connection.in_atomic_block and connection.get_autocommit():
            raise TransactionManagementError(
                f"There is no transaction on {self.using!r} to send in: send inside "
                f"transaction.atomic(using={self.using!r}), or use the layer's own send and group_send"
            )
        self._check_database(connection)
        return connection

    def _check_database(self, connection: Any) -> None:
        """Raise `NotSupported` unless this connection leads to the database in which the layer listens."""
        location = tuple(connection.settings_dict[key] for key in ("HOST", "PORT", "NAME"))
        if self.using == self._settings.database or location in self._same_database:
            return
        inbox = self._dispatcher.call_sync(same_node).inbox
        if not self._run(connection, self._publisher.count_subscribers_in_transaction(inbox)):
            raise NotSupported(
                f"DATABASES[{self.using!r}] is not the database in which the layer listens. Name the alias that is: "
                f"in_transaction(using=...), or set CONFIG to {{'database': {self.using!r}}}"
            )
        self._same_database.add(location)

    def _run(self, connection: Any, statements: QueryGenerator[Result]) -> Result:
        with connection.cursor() as cursor:
            rows: Sequence[Sequence[Any]] | None = None
            while True:
                try:
                    statement, parameters = next(statements) if rows is None else statements.send(rows)
                except StopIteration as end:
                    result: Result = end.value
                    return result
                named = {f"p{number}": value for number, value in enumerate(parameters, 1)}
                cursor.execute(_name_parameters(statement), named)
                rows = cursor.fetchall()


@lru_cache
def _name_parameters(statement: str) -> str:
    """Rewrite ``$1`` as ``%(p1)s``: Python's drivers repeat a parameter only by its name."""
    return _PARAMETER.sub(r"%(p\1)s", statement.replace("%", "%%"))
