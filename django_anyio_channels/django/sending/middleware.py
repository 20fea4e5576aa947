"""The channel of the browser that makes a request, for ``group_send(..., exclude=request.channel_name)``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ...core.exceptions import MissingDriver

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.core.signing import BadSignature, Signer
    from django.http import HttpRequest, HttpResponseBase
except ModuleNotFoundError as error:
    raise MissingDriver("The middleware needs Django: pip install django-anyio-channels[django]") from error

HEADER = "X-Channel-Name"

_Response: TypeAlias = HttpResponseBase | Awaitable[HttpResponseBase]


def channel_token(consumer: Any) -> str:
    """Return what a browser sends as the header ``X-Channel-Name``, so that views know its consumer's channel.

    It is signed, and good for requests of the same session only; where there is none, of the same user.
    """
    scope = consumer.scope
    binding = _of_session(scope.get("session")) or _of_user(scope.get("user"))
    return _signer(binding).sign(consumer.channel_name)


class ChannelNameMiddleware:
    """Sets ``request.channel_name``: the channel that the header ``X-Channel-Name`` names, or None.

    The header is a `channel_token`; what else it may be counts as none. Place this behind Django's session and
    authentication middleware. Views may be synchronous or asynchronous.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> _Response:
        if self._is_async:
            return self._call_async(request)
        binding = _of_request(request)
        if binding is None:
            binding = _of_user(getattr(request, "user", None))
        _set_channel_name(request, binding)
        response: _Response = self.get_response(request)
        return response

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        binding = _of_request(request)
        if binding is None:
            binding = _of_user(await request.auser()) if hasattr(request, "auser") else ""
        _set_channel_name(request, binding)
        response: HttpResponseBase = await self.get_response(request)
        return response


def _of_request(request: HttpRequest) -> str | None:
    """Return what the session binds a token to, or None if the user does: who that is, may be asked of the database."""
    if HEADER not in request.headers:
        return ""
    return _of_session(getattr(request, "session", None)) or None


def _of_session(session: Any) -> str:
    key = getattr(session, "session_key", None)
    return f"session {key}" if key else ""


def _of_user(user: Any) -> str:
    return f"user {user.pk}" if getattr(user, "is_authenticated", False) else ""


def _signer(binding: str) -> Signer:
    return Signer(salt=f"django_anyio_channels.channel_name {binding}")


def _set_channel_name(request: Any, binding: str) -> None:
    try:
        request.channel_name = _signer(binding).unsign(request.headers[HEADER])
    except (BadSignature, KeyError):
        request.channel_name = None
