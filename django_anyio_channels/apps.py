"""The Django app; being installed only adds the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .django.checks import check_channel_layers


class AnyioChannelsConfig(AppConfig):
    """Add ``"django_anyio_channels"`` to ``INSTALLED_APPS`` to have ``manage.py check`` look at ``CHANNEL_LAYERS``."""

    name = "django_anyio_channels"
    verbose_name: str = "AnyIO channels"

    def ready(self) -> None:
        checks.register(check_channel_layers, "channel_layers")
