"""The settings of the chat, and what the stage adds to them. The supervisor sets the variables that are read here."""

import os

from config.settings import *  # noqa: F403
from config.settings import CHANNEL_LAYER_URL, CHANNEL_LAYERS, DATABASES, IN_MEMORY, INSTALLED_APPS, TEMPLATES

INSTALLED_APPS = [*INSTALLED_APPS, "stage"]
ASGI_APPLICATION = "stage.asgi.application"
TEMPLATES = [{**TEMPLATES[0], "OPTIONS": {"context_processors": ["stage.offers.offers"]}}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ON_POSTGRESQL = bool(DATABASES)
if not ON_POSTGRESQL:
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["STAGE_FOLDER"], "posts"),  # noqa: PTH118
    }
STAGE_OWNS_BROKER = "STAGE_OWNS_BROKER" in os.environ
STAGE_CONTROL = os.environ.get("STAGE_CONTROL")
"""The Unix socket of the supervisor; None if the page may not kill anything."""

_layer = CHANNEL_LAYERS["default"]["CONFIG"]
# Messages wait for a broker that was stopped, however long a slow machine takes to start it again.
_layer |= {"capacity": 1000, "publish_timeout": 60, "telemetry": "prometheus"}
# The brokers with histories and acknowledged jobs.
ACKNOWLEDGES = ON_POSTGRESQL or IN_MEMORY or "+streams" in CHANNEL_LAYER_URL or CHANNEL_LAYER_URL.startswith("postgres")
if ACKNOWLEDGES:
    _layer |= {"acknowledged": ["chat-worker", "stage-jobs"]}
    # Short, so that nobody waits long for the worker that takes over; the longest job takes two seconds.
    _layer["options"] = {"history_length": 1000, "redeliver_after": 3.0}

STAGE_MQTT = os.environ.get("STAGE_MQTT")
if STAGE_MQTT:
    CHANNEL_LAYERS["devices"] = {
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {
            "url": STAGE_MQTT,
            "bridge": {"thermometer": "home/thermometer", "lamp": "home/lamp", "lamp.set": "home/lamp/set"},
        },
    }
