"""Users instead of channels: the groups of a user's and of a session's consumers, and what is sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.exceptions import MissingDriver

try:
    from channels.consumer import AsyncConsumer
    from django.conf import settings
    from django.utils.crypto import salted_hmac
except ModuleNotFoundError as error:
    raise MissingDriver(
        "The mixins for consumers need Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from ..messages.closing import close_message, session_hash
from ..messages.envelope import Header
from .sends import Channels, Groups, Results, TargetedSends

LOGGED_OUT = 4401
"""The code with which WebSockets are closed whose user or session is logged in no more."""
FORBIDDEN = 4403
"""The code with which WebSockets of a group are closed."""

_DIGITS = 40


def user_groups(user: Any) -> list[str]:
    """Return the groups of the consumers of a user, given as such or by the primary key.

    It is one group; while ``SECRET_KEY_FALLBACKS`` are in use there is one for each key. Nobody without a key can guess
    their names. Raises `ValueError` for a user who has no primary key.
    """
    key = getattr(user, "pk", user)
    if key is None or isinstance(key, bool) or not str(key):
        raise ValueError(f"{user!r} has no primary key: it is not saved, or nobody is logged in")
    return _groups("user", str(key))


def session_groups(session_key: str) -> list[str]:
    """Return the groups of the consumers of a session, from whose names its key cannot be found out."""
    return _groups("session", session_key)


def _groups(kind: str, value: str) -> list[str]:
    secrets = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    salt = f"django_anyio_channels.{kind}"
    digests = [salted_hmac(salt, value, secret=secret, algorithm="sha256").hexdigest() for secret in secrets]
    return [f"anyio-channels.{kind}.{digest[:_DIGITS]}" for digest in digests]


def groups_of(scope: Mapping[str, Any]) -> list[str]:
    """Return the groups of the user and of the session of a connection."""
    user, session = scope.get("user"), scope.get("session")
    groups = user_groups(user) if getattr(user, "is_authenticated", False) else []
    session_key = getattr(session, "session_key", None)
    return groups + (session_groups(session_key) if session_key else [])


class UserMixin:
    """For WebSocket consumers of any kind, ``class ChatConsumer(UserMixin, AsyncWebsocketConsumer)``.

    The consumer is in the groups of its user and of its session, which the scope has inside of Channels'
    ``AuthMiddlewareStack``, as long as it is connected. So `AnyioChannelLayer.user_send` and ``user_close`` reach it.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        classes = cls.__mro__
        if AsyncConsumer in classes and classes.index(UserMixin) > classes.index(AsyncConsumer):
            raise TypeError(
                f"{cls.__name__} names UserMixin behind its consumer; write it before: class ...(UserMixin, ...)"
            )

    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if not hasattr(self, "websocket_connect"):
            raise TypeError(f"{type(self).__name__} has no WebSocket; UserMixin is for WebSocket consumers")
        self.groups: list[str] = [*self.groups, *groups_of(scope)]
        await super().__call__(scope, receive, send)  # type: ignore[misc]


class UserMethods(TargetedSends):
    """What `AnyioChannelLayer` does with users, and with the WebSockets of a group."""

    async def user_send(
        self, user: Any, message: dict[str, Any], *, exclude: Channels = None, idempotency_key: str | None = None
    ) -> Results:
        """Send to all consumers of a user that have `UserMixin`, in all processes. ``user`` may be the primary key.

        ``exclude`` and ``idempotency_key`` are those of `group_send`.
        """
        return await self._send_to_groups(user_groups(user), message, exclude, idempotency_key)

    def user_send_sync(
        self, user: Any, message: dict[str, Any], *, exclude: Channels = None, idempotency_key: str | None = None
    ) -> Results:
        """`user_send` for synchronous code."""
        return self._send_to_groups_sync(user_groups(user), message, exclude, idempotency_key)

    async def user_close(self, user: Any, code: int = LOGGED_OUT) -> None:
        """Close the WebSockets of all consumers of a user that have `UserMixin`. ``user`` may be the primary key."""
        await self.group_close(user_groups(user), code)

    def user_close_sync(self, user: Any, code: int = LOGGED_OUT) -> None:
        """`user_close` for synchronous code."""
        self.group_close_sync(user_groups(user), code)

    async def group_close(self, group: Groups, code: int = FORBIDDEN, *, exclude: Channels = None) -> None:
        """Close the WebSockets of all consumers in a group, before they handle what waits for them.

        ``code`` is 1000, or from 3000 to 4999. Every consumer of Channels with a WebSocket does that, without a mixin
        or a handler; others ignore it. The message is no part of the group's history. A program that receives on a
        channel of the group by itself gets ``{"type": "anyio_channels.close", "code": code}``.
        """
        await self._send_to_groups(group, close_message(code), exclude, None, Header(urgent=True))

    def group_close_sync(self, group: Groups, code: int = FORBIDDEN, *, exclude: Channels = None) -> None:
        """`group_close` for synchronous code."""
        self._send_to_groups_sync(group, close_message(code), exclude, None, Header(urgent=True))

    def close_if_changed_sync(self, user: Any) -> None:
        """Close the WebSockets of a user whose password was another one when they were opened."""
        hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
        message = close_message(LOGGED_OUT, [session_hash(each) for each in hashes])
        self._send_to_groups_sync(user_groups(user), message, None, None, Header(urgent=True))
