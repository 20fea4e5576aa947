"""Django's settings for the tests that need some; each test overrides what it is about."""

from __future__ import annotations

from django.conf import settings


def pytest_configure() -> None:
    settings.configure(DATABASES={}, CHANNEL_LAYERS={}, INSTALLED_APPS=["channels"], SECRET_KEY="for tests")
