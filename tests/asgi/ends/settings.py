"""Settings of the servers that end gracefully; the channel layer's URL comes from the environment."""

import os
from typing import Any

SECRET_KEY = "signs nothing"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["channels", "django_anyio_channels"]
ROOT_URLCONF = "tests.asgi.ends.asgi"
DATABASES: dict[str, Any] = {}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {
            "url": os.environ["CHANNEL_LAYER_URL"],
            "drain_seconds": float(os.environ["DRAIN_SECONDS"]),
            "presence_grace": 2,
        },
    },
}
