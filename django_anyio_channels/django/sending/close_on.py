"""``close_on``: WebSockets are closed when their users log out, change their passwords, or are deactivated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_delete, post_save

from ..layer import AnyioChannelLayer
from ..registry import get_channel_layer
from .users import LOGGED_OUT, session_groups

logger = logging.getLogger("django_anyio_channels")


def connect_signals() -> None:
    """Connect to the signals of Django's authentication, if it is installed."""
    if apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.signals import user_logged_out

        user_logged_out.connect(_logged_out, dispatch_uid="anyio_channels.logout")
        for signal, receiver in ((post_save, _saved), (post_delete, _deleted)):
            signal.connect(receiver, sender=settings.AUTH_USER_MODEL, dispatch_uid="anyio_channels.user")


def _layers(event: str) -> Iterator[AnyioChannelLayer]:
    for alias, entry in settings.CHANNEL_LAYERS.items():
        if event in entry.get("CONFIG", {}).get("close_on", ()):
            yield get_channel_layer(alias)


def _when_committed(call: Callable[[], None], using: str | None = None) -> None:
    def close() -> None:
        try:
            call()
        except Exception:  # the user must be able to log out when the broker is down
            logger.exception("Could not close the WebSockets of a user who may no longer use them")

    transaction.on_commit(close, using=using)  # what is rolled back closes nothing


def _logged_out(sender: object, request: Any, **_: object) -> None:
    session_key = getattr(getattr(request, "session", None), "session_key", None)
    if session_key:
        for layer in _layers("logout"):
            _when_committed(partial(layer.group_close_sync, session_groups(session_key), LOGGED_OUT))


def _saved(instance: Any, created: bool, raw: bool, using: str, update_fields: frozenset[str] | None, **_: Any) -> None:
    if created or raw:
        return
    if not instance.is_active and (update_fields is None or "is_active" in update_fields):
        _deactivated(instance.pk, using)
    elif update_fields is None or "password" in update_fields:
        for layer in _layers("password_changed"):
            _when_committed(partial(layer.close_if_changed_sync, instance), using)


def _deleted(instance: Any, using: str, **_: Any) -> None:
    _deactivated(instance.pk, using)


def _deactivated(key: object, using: str) -> None:
    for layer in _layers("deactivated"):
        _when_committed(partial(layer.user_close_sync, key), using)
