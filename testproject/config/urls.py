"""The pages: ``/`` leads to the lobby, ``/room/<room>/`` is a room."""

from django.urls import path, re_path
from django.views.generic import RedirectView

from chat.protocol import ROOM
from chat.views import room

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="room"), {"room": "lobby"}),
    re_path(rf"^room/(?P<room>{ROOM})/$", room, name="room"),
]
