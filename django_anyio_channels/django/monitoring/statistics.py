"""The numbers of a layer: what its process has open, has done and has lost."""

from __future__ import annotations

from time import monotonic

from ...core.telemetry import Recorder
from ..base import LayerBase
from ..nodes.local_channels import LocalChannel
from ..telemetry.sources import Measurements


class Statistics(LayerBase):
    """The numbers that `AnyioChannelLayer` offers to operators."""

    def statistics(self) -> dict[str, float]:
        """Return what this process has open, has done and has lost, summed over its event loops: int, seconds float.

        What is open now: ``nodes`` (event loops that read from the broker), ``channels`` (in use), ``topics``
        (subscribed), ``members`` (memberships in groups), ``oldest_message`` (seconds for which the oldest unread
        message has waited) and ``disconnected`` (lost connections).

        What has happened since the process began: ``outages`` (lost connections), ``outage_seconds``, ``reconnects``,
        ``dropped`` (``dropped_capacity`` and ``dropped_bytes`` for full mailboxes, ``dropped_queue`` for full queues),
        ``replaced`` (by a newer message with the same key), ``closed_slow`` (WebSockets, or `listen`, by ``overflow``),
        ``expired`` (not read in time), ``undecodable`` (dropped), ``dead_letters``, and `group_resume` by result:
        ``resumes_new``, ``resumes_complete``, ``resumes_lost`` and ``resumes_invalid``.

        With ``telemetry`` in CONFIG also ``published``, ``publish_failures`` and ``delivered`` (into mailboxes); and,
        where the broker can count them, in the queues that are read here ``queued`` messages, and ``pending`` ones,
        which were delivered and not acknowledged.
        """
        counts = self._dispatcher.totals.counts(self._dispatcher.nodes)
        counts["dropped_capacity"] = counts["dropped"] - counts["dropped_bytes"] - counts["dropped_queue"]
        statistics = self._open() | counts
        recorded = self._recorded()
        if recorded is not None:
            statistics["published"] = recorded.publish_time.count
            statistics["publish_failures"] = recorded.failed
            statistics["delivered"] = recorded.delivered
            if recorded.queues:
                statistics["queued"] = sum(length.waiting for length in recorded.queues.values())
                statistics["pending"] = sum(length.pending for length in recorded.queues.values())
        return statistics

    def measurements(self) -> Measurements:
        """Return what the collectors of ``telemetry`` read."""
        recorded = self._recorded() or Recorder()
        return Measurements(self.statistics(), recorded.publish_time, recorded.lag)

    def _recorded(self) -> Recorder | None:
        return self._dispatcher.totals.recorded(self._dispatcher.nodes)

    def _open(self) -> dict[str, float]:
        nodes = self._dispatcher.nodes
        channels = [channel for node in nodes for channel in node.local_channels]
        return {
            "nodes": len(nodes),
            "channels": len(channels),
            "topics": sum(node.channel.subscriptions for node in nodes),
            "members": sum(len(channel.topics) for channel in channels),
            "oldest_message": _oldest_message(channels),
            "disconnected": sum(node.channel.stats.outages.current for node in nodes),
        }


def _oldest_message(channels: list[LocalChannel]) -> float:
    now = monotonic()
    return max((now - oldest for each in channels if (oldest := each.mailbox.oldest) is not None), default=0.0)
