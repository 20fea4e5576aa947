"""Events of groups for code that is no consumer: views, subscriptions of GraphQL, streaming responses."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..core.exceptions import InvalidOption, NotSupported
from .base import LayerBase
from .listeners import Listener

_PATTERN = re.compile(r"[a-zA-Z0-9\-_.*?\[\]^]+")
_SPECIAL = re.compile(r"[*?\[\]\\]")


class Listening(LayerBase):
    """What `AnyioChannelLayer` offers code that has no channel."""

    @asynccontextmanager
    async def listen(
        self,
        *groups: str,
        pattern: str | None = None,
        since: str | None = None,
        capacity: int | None = None,
        overflow: object = None,
    ) -> AsyncGenerator[Listener, None]:
        """Listen to groups, in the running event loop, until the block is left: ``async for event in events``.

        What is sent after the block was entered comes as an `Event` with ``message``, ``group`` and ``position``. A
        listener is no member: nobody can exclude it, and presence does not count it.

        ``pattern`` is a glob of the broker for names of groups, in memory and on Redis, except in a cluster; elsewhere
        it raises `NotSupported`. A message to several groups comes once.

        With ``since`` the events after this position of one group come first. It raises `PositionLost` or
        `InvalidPosition`, and `NotSupported` if the broker keeps no history. Such a listener misses nothing: it
        raises `PositionLost` if the broker does, and `SubscriberFull` when more than its capacity has waited; what has
        come before may be handled, and its last position taken for the next call.

        ``capacity`` replaces that of CONFIG; ``overflow`` says what happens at it, in the words of CONFIG's
        ``overflow``, unless there is a ``since``. By default newer events are dropped.
        """
        for group in groups:
            self.require_valid_group_name(group)
        if since is not None and overflow not in (None, "close"):
            raise InvalidOption("overflow cannot be chosen with since", "Omit it: such a listener misses nothing")
        topics = list(map(self._names.group, groups))
        topic_pattern = None if pattern is None else self._topic_pattern(pattern)
        node = await self._dispatcher.own_node()
        subscribing = node.channel.subscribe(
            *topics,
            pattern=topic_pattern,
            since=since,
            capacity=capacity,
            expiry=None if since is None else math.inf,
            overflow=overflow or ("drop_newest" if since is None else "close"),
        )
        async with subscribing as subscriber:
            all_topics = topics if topic_pattern is None else [*topics, topic_pattern]
            listener = Listener(subscriber, self._names, all_topics, complete=since is not None)
            with node.listeners.added(listener):
                yield listener

    def _topic_pattern(self, pattern: object) -> str:
        if not isinstance(pattern, str) or len(pattern) >= self.MAX_NAME_LENGTH or not _PATTERN.fullmatch(pattern):
            shown = repr(pattern[: self.MAX_NAME_LENGTH]) if isinstance(pattern, str) else type(pattern).__name__
            raise TypeError(
                f"A pattern is a glob of fewer than {self.MAX_NAME_LENGTH} characters that names of groups may have, "
                f"and of *, ?, [ and ], such as 'room.*', not {shown}"
            )
        if self.broker == "mqtt":
            raise NotSupported("MQTT has patterns for levels of topics, and a group is one: listen to each by its name")
        if _SPECIAL.search(self._names.groups):
            raise NotSupported(f"With the prefix {self._settings.prefix!r} there are no patterns: it looks like one")
        return self._names.group(pattern)
