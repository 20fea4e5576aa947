"""Nodes that miss each other twenty times sooner."""

from __future__ import annotations

import pytest

from django_anyio_channels.django.presence import timing


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "INTERVAL", 0.1)
    monkeypatch.setattr(timing, "LIFETIME", 0.5)


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
