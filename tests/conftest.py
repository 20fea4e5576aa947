"""Django's settings for the tests that need some; each test overrides what it is about. And who works side by side."""

from __future__ import annotations

import pytest
from django.conf import settings


def pytest_configure() -> None:
    settings.configure(DATABASES={}, CHANNEL_LAYERS={}, INSTALLED_APPS=["channels"], SECRET_KEY="for tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What stays together in one process: the tests of a file, and in the contract suites those over one broker."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = getattr(callspec.params.get("kind"), "name", "") if callspec else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {kind}"))
