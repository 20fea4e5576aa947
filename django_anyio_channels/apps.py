"""The Django app: being installed adds the system checks, and connects ``close_on`` to Django's signals."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .django.configuration.checks import check_channel_layers
from .django.sending.close_on import connect_signals


class AnyioChannelsConfig(AppConfig):
    """Add ``"django_anyio_channels"`` to ``INSTALLED_APPS`` to have ``manage.py check`` look at ``CHANNEL_LAYERS``.

    ``close_on`` needs it, too.
    """

    name = "django_anyio_channels"
    verbose_name: str = "AnyIO channels"

    def ready(self) -> None:
        checks.register(check_channel_layers, "channel_layers")
        connect_signals()
