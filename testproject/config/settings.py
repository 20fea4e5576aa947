"""Settings of the demo chat. What differs between machines comes from environment variables.

``CHANNEL_LAYER_URL``
    Where messages travel, ``memory://`` unless told otherwise. See the table of URLs in the README.
``ALLOWED_HOSTS``
    Comma-separated names under which the chat may be opened, this machine only unless told otherwise.
``DEBUG``
    ``0`` turns Django's debug pages off.

There is no database, hence no sessions, no users and no migrations: a name lives in its browser tab and a
message in the windows that saw it.
"""

import os
from typing import Any

from django.core.management.utils import get_random_secret_key

DEBUG = os.environ.get("DEBUG", "1") != "0"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
SECRET_KEY = get_random_secret_key()  # Nothing that is signed here outlives the process.

CHANNEL_LAYER_URL = os.environ.get("CHANNEL_LAYER_URL", "memory://")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {"url": CHANNEL_LAYER_URL},
    },
}

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
DATABASES: dict[str, Any] = {}
STATIC_URL = "static/"
TIME_ZONE = "UTC"
