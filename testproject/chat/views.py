"""The one page of the chat."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from chat.protocol import NAME_LIMIT, TEXT_LIMIT, WORKER

ROOMS = ["lobby", "kitchen", "workshop", "garden"]


def room(request: HttpRequest, room: str) -> HttpResponse:
    """A room. What it may load and run is its own style sheet and script, and nothing that is written in the page."""
    response = render(
        request,
        "chat/room.html",
        {
            "room": room,
            "rooms": ROOMS if room in ROOMS else [*ROOMS, room],
            "name_limit": NAME_LIMIT,
            "text_limit": TEXT_LIMIT,
            "worker": WORKER,
            "stage": "stage" in settings.INSTALLED_APPS,
        },
    )
    host = request.get_host()
    response["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        f"connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return response
