"""Settings of the demo chat. What differs between machines comes from environment variables.

``CHANNEL_LAYER_URL``
    Where messages travel, ``memory://`` by default. See ``docs/choosing-a-broker.rst``.
``DATABASE``
    The name of a PostgreSQL database. Messages then travel through Django's own ``DATABASES``, whatever the URL says.
    Where it is and who logs in say ``PGHOST``, ``PGPORT``, ``PGUSER`` and ``PGPASSWORD``, as for ``psql``.
``ALLOWED_HOSTS``
    Comma-separated names under which the chat may be opened, this machine only by default.
``SERVER_NAME``
    What the pages call this process, where several serve one chat. They don't mention it by default.
``DEBUG``
    ``1`` turns Django's debug pages on and ``0`` off. They are on unless ``ALLOWED_HOSTS`` opens the chat to others.

Nothing is stored in tables, hence no sessions, no users and no migrations: a name lives in its browser tab, and a
message in the windows that saw it and, for an hour, in the history that the broker keeps of its room.
"""

import os
from typing import Any

from django.core.management.utils import get_random_secret_key

DEBUG = os.environ.get("DEBUG", "0" if "ALLOWED_HOSTS" in os.environ else "1") != "0"
DEFAULT_EXCEPTION_REPORTER_FILTER = "config.debug.HideChannelLayers"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").replace(" ", "").split(",")
SECRET_KEY = get_random_secret_key()  # Nothing that is signed here outlives the process.

SERVER_NAME = os.environ.get("SERVER_NAME", "")
CHANNEL_LAYER_URL = os.environ.get("CHANNEL_LAYER_URL", "memory://")
DATABASE = os.environ.get("DATABASE")
IN_MEMORY = not DATABASE and CHANNEL_LAYER_URL.startswith("memory:")
DATABASES: dict[str, Any] = {}
if DATABASE:
    DATABASES["default"] = {"ENGINE": "django.db.backends.postgresql", "NAME": DATABASE}
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {
            **({"database": "default"} if DATABASE else {"url": CHANNEL_LAYER_URL}),
            "outage_message": "group.missed",  # have each window come back after an outage and say what it missed
            "presence_grace": 2,  # who reloads the page has not left
            "publish_timeout": 5,  # nobody waits longer for a line of chat
            "options": {"history_length": 1000} if IN_MEMORY else {},  # each room's last messages
        },
    },
}
# What is in memory cannot be reached from a second process, so `manage.py runworker` would wait for ever.
EMBEDDED_WORKER = IN_MEMORY
SILENCED_SYSTEM_CHECKS = ["anyio_channels.W001"]  # The worker is embedded, and there is but one process.

INSTALLED_APPS = [
    "daphne",  # Before staticfiles: its runserver speaks WebSocket.
    "channels",
    "django.contrib.staticfiles",
    "django_anyio_channels",
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
TIME_ZONE = "UTC"
