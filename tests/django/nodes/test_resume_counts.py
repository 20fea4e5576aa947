"""`django.nodes.resume_counts`: what becomes of each call is counted once."""

from __future__ import annotations

import asyncio

import pytest

from django_anyio_channels import InvalidPosition, PositionLost
from django_anyio_channels.django.nodes.resume_counts import ResumeCounts


def test_resumes_are_counted_by_their_result() -> None:
    async def main() -> None:
        counts = ResumeCounts()

        async def resume(error: type[BaseException] | None) -> str:
            if error is not None:
                raise error
            return "position"

        assert await counts.counted(resume(None), None) == "position"
        await counts.counted(resume(None), "since")
        for error in (PositionLost, PositionLost, InvalidPosition, ZeroDivisionError, asyncio.CancelledError):
            with pytest.raises(error):
                await counts.counted(resume(error), "since")
        assert counts.counts == {"new": 1, "complete": 1, "lost": 2, "invalid": 1}

    asyncio.run(main())
