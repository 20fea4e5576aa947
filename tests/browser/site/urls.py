"""The pages of client.js and htmx, the streams, and a way to publish."""

from __future__ import annotations

import json
from typing import Any, cast

from channels.layers import channel_layers
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.html import format_html

from django_anyio_channels import AnyioChannelLayer, EventStreamResponse

PAGE = """<!doctype html><script type=module>
import { connect } from "/static/anyio_channels/client.js";
window.connect = connect;
window.watch = (link) => {
  window.link = link;
  window.events = [];
  for (const type of ["joined", "message", "presence", "missed", "left", "error", "state"])
    link.addEventListener(type, ({ detail }) => events.push({ type, ...detail }));
};
</script>"""

HTMX = """<!doctype html>
<script src="/static/htmx.org/dist/htmx.min.js"></script>
<script src="/static/htmx-ext-sse/dist/sse.js"></script>
<script src="/static/htmx-ext-ws/dist/ws.js"></script>
<ul id=sse hx-ext=sse sse-connect="/html/" sse-swap="chat" hx-swap="beforeend"></ul>
<div hx-ext=ws ws-connect="/fragments/"><div id=score></div></div>
"""


def layer() -> AnyioChannelLayer:
    return cast(AnyioChannelLayer, channel_layers["default"])


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(HTMX if request.path == "/htmx/" else PAGE)


async def publish(request: HttpRequest) -> HttpResponse:
    """Send each text to a group."""
    for text in request.GET.getlist("text"):
        await layer().group_send(request.GET["group"], {"type": "group.message", "message": text})
    return HttpResponse()


async def fragment(request: HttpRequest) -> HttpResponse:
    await layer().broadcast("htmx", text=format_html("<div id=score>{}</div>", request.GET["text"]))
    return HttpResponse()


async def channels(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"channels": layer().statistics()["channels"]})


async def stream(request: HttpRequest) -> EventStreamResponse:
    return EventStreamResponse(request, request.GET.getlist("group"), retry=0.2, heartbeat=0.2)


def frames(request: HttpRequest) -> EventStreamResponse:
    last, member = int(request.GET.get("last", 0)), request.GET.get("member")
    return EventStreamResponse(request, request.GET.getlist("group"), last=last, retry=0.2, frames=True, member=member)


async def html(request: HttpRequest) -> EventStreamResponse:
    async def render(message: dict[str, Any]) -> tuple[str, str]:
        return "chat", format_html("<li>{}</li>", json.dumps(message["message"]))

    return EventStreamResponse(request, ["chat"], render=render, last=10, retry=0.2)


urlpatterns = [
    path("", page),
    path("htmx/", page),
    path("publish/", publish),
    path("fragment/", fragment),
    path("channels/", channels),
    path("stream/", stream),
    path("frames/", frames),
    path("html/", html),
]
