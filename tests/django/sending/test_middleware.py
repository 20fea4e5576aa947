"""`ChannelNameMiddleware`: a browser can name the channel of its own consumer, and no other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from django_anyio_channels import ChannelNameMiddleware, channel_token

CHANNEL = "specific.0123456789abcdef!1.abc"


def somebody(key: int | None = None) -> Any:
    return SimpleNamespace(pk=key, is_authenticated=key is not None)


def session(key: str | None) -> Any:
    return SimpleNamespace(session_key=key)


def token(**scope: Any) -> str:
    return channel_token(SimpleNamespace(channel_name=CHANNEL, scope=scope))


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(repr(request.channel_name))  # type: ignore[attr-defined]


async def async_view(request: HttpRequest) -> HttpResponse:
    return view(request)


@pytest.fixture(params=["synchronous", "asynchronous"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "asynchronous")


def found(header: str | None, is_async: bool, **attributes: Any) -> str | None:
    """``request.channel_name`` of a request with these attributes."""
    request = RequestFactory().get("/", headers={} if header is None else {"X-Channel-Name": header})
    user = attributes.get("user")
    if user is not None:

        async def auser() -> Any:
            return user

        attributes["auser"] = auser
        if is_async:
            attributes["user"] = property(lambda _: 1 / 0)  # it may ask the database, and must not in an event loop
    for name, value in attributes.items():
        setattr(request, name, value)
    middleware = ChannelNameMiddleware(async_view if is_async else view)
    assert iscoroutinefunction(middleware) == is_async
    response: Any = middleware(request)
    if is_async:
        response = asyncio.run(_awaited(response))
    assert response.content == repr(request.channel_name).encode()  # type: ignore[attr-defined]
    return request.channel_name  # type: ignore[attr-defined, no-any-return]


async def _awaited(response: Any) -> Any:
    return await response


def test_a_browser_names_its_consumer(is_async: bool) -> None:
    mine = token(session=session("mine"), user=somebody(7))
    assert found(mine, is_async, session=session("mine"), user=somebody(7)) == CHANNEL
    assert found(token(user=somebody(7)), is_async, user=somebody(7)) == CHANNEL
    assert found(token(), is_async) == CHANNEL
    assert (
        found(token(session=session(None), user=somebody()), is_async, session=session(None), user=somebody())
        == CHANNEL
    )


def test_others_cannot(is_async: bool) -> None:
    mine = token(session=session("mine"), user=somebody(7))
    assert found(mine, is_async, session=session("another")) is None
    assert found(mine, is_async, session=session(None), user=somebody(7)) is None
    assert found(mine, is_async) is None
    assert found(token(user=somebody(7)), is_async, user=somebody(8)) is None
    assert found(token(), is_async, session=session("mine")) is None


def test_what_is_not_signed_is_nothing(is_async: bool) -> None:
    mine = token(session=session("mine"))
    for forged in (None, "", CHANNEL, f"{CHANNEL}:", mine[:-1], "other" + mine, "\x00:\x00", "ü"):
        assert found(forged, is_async, session=session("mine")) is None
