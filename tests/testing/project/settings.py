"""Settings of the project. The layer and the database come from environment variables."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["localhost"]
INSTALLED_APPS = ["daphne", "channels", "django_anyio_channels", "django.contrib.staticfiles"]
STATIC_URL = "/static/"
ROOT_URLCONF = "tests.asgi.site.urls"
ASGI_APPLICATION = "tests.testing.project.asgi.application"
TEST_RUNNER = "django_anyio_channels.testing.runner.ChannelsDiscoverRunner"
DATABASE: dict[str, Any] = json.loads(os.environ["DATABASE"])
DATABASES = {"default": DATABASE}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": json.loads(os.environ["CONFIG"]),
    },
    "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}
