"""Settings; the channel layer's URL comes from an environment variable, and in memory it keeps a history, too."""

import os
from typing import Any

DEBUG = True
SECRET_KEY = "signs nothing"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["daphne", "channels", "django_anyio_channels", "django.contrib.staticfiles"]
# It must not touch a stream.
MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware"]
ROOT_URLCONF = "tests.browser.site.urls"
ASGI_APPLICATION = "tests.browser.site.asgi.application"
STATIC_URL = "/static/"
STATICFILES_DIRS = [folder for folder in os.environ.get("NPM_FOLDER", "").split(":") if folder]
DATABASES: dict[str, Any] = {}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {"url": os.environ["CHANNEL_LAYER_URL"], "options": {"history_length": 1000}, "presence_grace": 0.2},
    },
}
