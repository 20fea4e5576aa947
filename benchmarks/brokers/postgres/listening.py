"""channels_postgres, whose hundred readers that begin at once would start a hundred listeners."""

from __future__ import annotations

import asyncio
from typing import cast

from channels_postgres.core import PostgresChannelLayer


class ListeningLayer(PostgresChannelLayer):  # type: ignore[misc]
    """Listens from its first name on."""

    async def new_channel(self, prefix: str = "specific") -> str:
        listening, is_first = self._get_or_create_listener_task()
        if is_first:
            self.listener = asyncio.create_task(self.listen_to_all_channels())
        await listening.wait()
        return cast(str, await super().new_channel(prefix))
