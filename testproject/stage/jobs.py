"""Jobs that outlive the worker that does them."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.consumer import AsyncConsumer
from django.conf import settings

JOBS = "stage-jobs"
"""The normal channel that the workers read."""

GROUP = "stage"
"""The group of all panels."""

STEPS = 8
SECONDS = 2.0


def for_panels(**content: Any) -> dict[str, Any]:
    """Return a message that every panel gets as it is."""
    return {"type": "group.message", "group": GROUP, "message": content}


class Worker(AsyncConsumer):
    """Does a job in several steps, and reports each. Until it returns, the job isn't acknowledged."""

    async def stage_job(self, message: Any) -> None:
        worker = settings.SERVER_NAME
        for step in range(1, STEPS + 1):
            await asyncio.sleep(SECONDS / STEPS)
            report = {"id": message["id"], "worker": worker, "step": step, "of": STEPS}
            report["delivery"] = getattr(message, "deliveries", 1)  # always 1 where no job is acknowledged
            await self.channel_layer.group_send(GROUP, for_panels(job=report))
