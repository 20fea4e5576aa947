"""Settings written for channels_redis. Only BACKEND is not the one that they were written for."""

import os
import re
from typing import Any

from tests.asgi.site.settings import (
    ALLOWED_HOSTS,
    ASGI_APPLICATION,
    DATABASES,
    DEBUG,
    INSTALLED_APPS,
    ROOT_URLCONF,
    SECRET_KEY,
)

__all__ = ["ALLOWED_HOSTS", "ASGI_APPLICATION", "DATABASES", "DEBUG", "INSTALLED_APPS", "ROOT_URLCONF", "SECRET_KEY"]

FIRST, SECOND = os.environ["CHANNEL_LAYER_URL"].split()

CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": os.environ.get("BACKEND", "channels_redis.core.RedisChannelLayer"),
        "CONFIG": {
            "hosts": [("127.0.0.1", int(FIRST.rpartition(":")[2])), {"address": SECOND, "db": 1}],
            "prefix": "shop",
            "expiry": 30,
            "group_expiry": 3600,
            "capacity": 500,
            "channel_capacity": {"http.request": 200, re.compile(r"^websocket.send\!.+"): 20},
            "symmetric_encryption_keys": [SECRET_KEY + " and some more letters"],
            "serializer_format": "msgpack",
        },
    },
}
