"""What the nodes and the broker say of themselves: the methods behind ``manage.py channels``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ...core.capabilities import SupportsDiagnosis
from ...core.exceptions import ChannelLayerError
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from ..base import LayerBase
from ..consumers.jobs import dead_letter_group
from ..dispatcher import same_node
from ..names import CHANNEL_NAME, GROUP_NAME
from ..nodes.control import Reports
from ..settings import Settings

MOST_QUEUES = 1000
"""Queues of one broker that are looked at."""


class InspectionMethods(LayerBase):
    """What `AnyioChannelLayer` offers those who look after it. All of them raise `ListenerClosed`."""

    async def node_reports(self, *, details: bool = False, timeout: float = 3.0) -> Reports:
        """Ask all nodes of the prefix, this one too, for their statistics.

        ``details`` are their groups, with the number of members, and what they hold of normal channels. Without them
        every node counts the messages that it publishes and receives, for ten seconds after it was last asked.
        """
        return await self._dispatcher.call(lambda node: node.control.statistics(details=details, timeout=timeout))

    async def queue_states(self, reports: Reports | None = None) -> list[QueueState]:
        """Return the normal channels, by name. Raises `NotSupported` if the layer does not say what its queues hold.

        Where the queues are at the nodes, they are taken out of ``reports``, which must have their details.
        """
        prefix = self._names.queue("")
        node = await self._dispatcher.call(same_node)
        if node.channel.inspection.queues_are_at_nodes:
            found = _queues_of(reports or await self.node_reports(details=True))
        else:
            states = await self._dispatcher.call(lambda node: node.channel.inspection.queues(prefix, MOST_QUEUES))
            found = [replace(each, name=each.name.removeprefix(prefix)) for each in states]
        # Whoever may write at the broker may make queues of any name, for a terminal to stumble over.
        return sorted((each for each in found if CHANNEL_NAME.fullmatch(each.name)), key=lambda each: each.name)

    async def dead_letters(self) -> dict[str, int]:
        """Return the channels under ``acknowledged`` that have dead letters, and how many.

        Raises `NotSupported` if the layer has none.
        """
        prefix, suffix = self._names.groups, dead_letter_group("")
        counts = await self._dispatcher.call(lambda node: node.channel.inspection.histories(prefix))
        found = {
            group.removeprefix(prefix).removesuffix(suffix): count
            for group, count in sorted(counts.items())
            if count and group.endswith(suffix) and GROUP_NAME.fullmatch(group.removeprefix(prefix))
        }
        # Any other group may have a name that ends so.
        return {channel: count for channel, count in found.items() if self._settings.is_acknowledged(channel)}

    async def remove_dead_letters(self, channel: str, positions: Sequence[str]) -> int:
        """Remove dead letters of a channel by their positions, and return how many there were."""
        group = self._names.group(dead_letter_group(channel))
        return await self._dispatcher.call(
            lambda node: node.channel.inspection.remove_from_history(group, list(positions))
        )

    async def diagnose(self) -> list[Finding]:
        """Connect to every broker once, and return what is good and what is to be changed.

        A broker that cannot be reached is a finding, too.
        """
        found: list[Finding] = []
        for layer in self._settings.make_layers():
            layer.set_scope(self._names.prefix)
            found += await _diagnose(layer, self._settings)
        return found


async def _diagnose(layer: BaseChannelLayer, settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(settings.publish_timeout):
            await layer.connect()
            if isinstance(layer, SupportsDiagnosis):
                return await layer.diagnose(settings.max_message_size)
            return [Finding("unknown", f"{layer.address} does not say how it is set up")]
    except ChannelLayerError as error:
        return [Finding("error", str(error))]
    except TimeoutError:
        text = f"{layer.address} did not answer within {settings.publish_timeout:g} s"
        return [Finding("error", text, "Check that the broker runs and that the address is right")]
    finally:
        await layer.disconnect()


def _queues_of(reports: Reports) -> list[QueueState]:
    found: dict[str, QueueState] = {}
    for report, _ in reports.by_node.values():
        for name, queue in report.queues.items():
            state = QueueState(name, queue.length, queue.expires_in, queue.pending, queue.readers)
            # While a queue is handed off, two nodes may hold it.
            if name not in found or found[name].length < state.length:
                found[name] = state
    return list(found.values())
