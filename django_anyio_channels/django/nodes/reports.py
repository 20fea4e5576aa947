"""What a node reports of itself when another node asks for its statistics, and the limits of that.

Whoever may publish at the broker may ask, and may forge reports unless messages are encrypted. So a report has a
largest size, a node makes no more than `_COST_A_SECOND` allows and replies to nodes only, and what is read of a report
is text without control characters and numbers within bounds.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from ...core.events import PublishResult
from ...core.exceptions import DecodeError
from ...core.inspection import QueueState
from ..settings import Settings

if TYPE_CHECKING:
    from .node import Node

MOST_NAMES = 300
"""Groups of a report, and queues."""
_COST_A_SECOND = 40.0
"""What the reports of a second may cost: one without groups 1, one with them `_COST_OF_DETAILS`."""
_COST_OF_DETAILS = 8.0
_WATCHED_SECONDS = 10.0
"""For which a node counts messages after it was last asked to."""

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, Meta(ge=0.0, le=2.0**53)]
_NAME = r"^[a-zA-Z0-9_.-]{1,100}\Z"
_Name = Annotated[str, Meta(pattern=_NAME)]
_is_name = re.compile(_NAME).match


class QueueReport(msgspec.Struct):
    """A queue that the reporting node holds; see `core.inspection.QueueState`."""

    length: _Count
    expires_in: _Seconds | None = None
    pending: _Count = 0
    readers: _Count | None = None


class Report(msgspec.Struct):
    """What one node says of itself."""

    node: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    process: Annotated[str, Meta(pattern=r"^[!-~]{1,300}\Z")]
    """The name of the host, a colon, and the process id."""
    version: Annotated[str, Meta(pattern=r"^[!-~]{1,50}\Z")]
    """Of this package."""
    clock: Annotated[float, Meta(ge=0.0, le=2.0**53)]
    """`time.time` when it was made."""
    counters: Annotated[dict[_Name, _Count], Meta(max_length=100)]
    oldest: _Seconds
    """For how many seconds the oldest unread message has waited in a mailbox."""
    groups: Annotated[dict[_Name, _Count], Meta(max_length=MOST_NAMES)] = {}
    """The groups with the most members, and how many of these are at this node."""
    more_groups: _Count = 0
    """How many groups were left out."""
    queues: Annotated[dict[_Name, QueueReport], Meta(max_length=MOST_NAMES)] = {}
    """The normal channels whose messages this node holds."""
    more_queues: bool = False
    """Whether queues were left out."""


def counters_of(nodes: Iterable[Node]) -> dict[str, int]:
    """Return what these nodes have open and have lost, together; see `AnyioChannelLayer.statistics`."""
    nodes = list(nodes)
    return {
        "nodes": len(nodes),
        "channels": sum(len(node.local_channels) for node in nodes),
        "topics": sum(node.channel.subscriptions for node in nodes),
        "outages": sum(node.channel.outages for node in nodes),
        "dropped": sum(node.channel.stats.dropped for node in nodes),
        "expired": sum(node.channel.stats.expired for node in nodes),
        "undecodable": sum(node.channel.stats.undecodable for node in nodes),
    }


class Reporter:
    """Makes the reports of one node."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._names = settings.names
        self._spent = 0.0
        self._spent_at = 0.0
        self._asked = 0
        self._published = 0
        self._watched_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def charge(self, details: bool) -> None:
        """Account for a report that was asked for. Raises `DecodeError` if there were too many."""
        now = monotonic()
        self._spent = max(0.0, self._spent - _COST_A_SECOND * (now - self._spent_at))
        self._spent_at = now
        cost = _COST_OF_DETAILS if details else 1.0
        if self._spent + cost > _COST_A_SECOND:
            raise DecodeError("it asks for statistics too often")
        self._spent += cost
        self._asked += self._timer is not None

    async def make(self, details: bool) -> Report:
        """Return a report: ``details`` are its groups and queues; without them, what is published is counted."""
        node = self._node
        if not details:
            self._watch()
        arrivals = [each.oldest for each in node.local_channels.mailboxes() if each.oldest is not None]
        # Without the commands that asked for reports.
        received = max(0, node.channel.inspection.received - self._asked)
        counters = counters_of([node]) | {"published": self._published, "received": received}
        report = Report(
            node=node.id,
            process=_process_name(os.getpid()),
            version=package_version(),
            clock=time.time(),
            counters=counters | {"unread_channels": len(arrivals)},
            oldest=max(0.0, monotonic() - min(arrivals)) if arrivals else 0.0,
        )
        if details:
            self._add_groups(report)
            await self._add_queues(report)
        return report

    def _add_groups(self, report: Report) -> None:
        prefix = self._names.groups
        members = [(-count, topic) for topic, count in self._node.channel.inspection.members()]
        groups = sorted((count, topic.removeprefix(prefix)) for count, topic in members if topic.startswith(prefix))
        report.groups = {group: -count for count, group in groups[:MOST_NAMES]}
        report.more_groups = len(groups) - len(report.groups)

    async def _add_queues(self, report: Report) -> None:
        inspection, prefix = self._node.channel.inspection, self._names.queue("")
        if inspection.queues_are_at_nodes:
            queues = await inspection.queues(prefix, MOST_NAMES + 1)
            named = [(each.name.removeprefix(prefix), each) for each in queues[:MOST_NAMES]]
            # Whoever may write at the broker may make queues of any name; the report would be dropped for one of them.
            report.queues = {name: _report_queue(each) for name, each in named if _is_name(name)}
            report.more_queues = len(queues) > MOST_NAMES

    # ---- what is published and received ---------------------------------------------------------------------------

    def _watch(self) -> None:
        """Count messages from now on, until no report was asked for in `_WATCHED_SECONDS`: counting costs a call."""
        self._watched_until = monotonic() + _WATCHED_SECONDS
        if self._timer is None:
            self._node.publish = self._publish
            self._node.channel.inspection.count_received(True)
            self._timer = asyncio.get_running_loop().call_later(_WATCHED_SECONDS, self._stop_watching)

    def _stop_watching(self) -> None:
        left = self._watched_until - monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._stop_watching)
            return
        self._timer = None
        self._node.publish = self._node.channel.publish_payload
        self._node.channel.inspection.count_received(False)

    async def _publish(self, group: str, payload: bytes, *, lifetime: float | None = None) -> PublishResult:
        self._published += 1
        return await self._node.channel.publish_payload(group, payload, lifetime=lifetime)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()


def _report_queue(state: QueueState) -> QueueReport:
    # It may have expired since it was looked at.
    expires_in = None if state.expires_in is None else max(0.0, state.expires_in)
    return QueueReport(state.length, expires_in, state.pending, state.readers)


@cache
def package_version() -> str:
    """Return the version of this package."""
    return version("django-anyio-channels")


@cache
def _process_name(pid: int) -> str:
    host = re.sub(r"[^!-~]", "?", platform.node())[:200] or "unknown"
    return f"{host}:{pid}"
