"""Settings of the project. The server, and what a test is about, come from environment variables."""

from __future__ import annotations

import os

SECRET_KEY = "for tests"
USE_TZ = os.environ.get("USE_TZ", "1") == "1"
INSTALLED_APPS = ["channels", "django_anyio_channels", "tests.brokers.postgres.project"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PG_NAME", "postgres"),
        "HOST": "127.0.0.1",
        "PORT": os.environ["PG_PORT"],
        "USER": os.environ["PG_USER"],
        "PASSWORD": os.environ["PG_PASSWORD"],
        "CONN_MAX_AGE": int(os.environ.get("CONN_MAX_AGE", "0")),
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {"database": "default"},
    },
}
