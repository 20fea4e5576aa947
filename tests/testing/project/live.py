"""A server in a process of its own is of the same test run."""

from __future__ import annotations

import json
from typing import Any

from asgiref.sync import async_to_sync
from channels.testing import ChannelsLiveServerTestCase
from django.conf import settings
from websockets.sync.client import connect

from django_anyio_channels import get_channel_layer


class LiveServer(ChannelsLiveServerTestCase):
    """Channels' own test case."""

    def test_consumer_and_test_share_groups_and_queues(self) -> None:
        layer = get_channel_layer()
        with connect(self.live_server_ws_url) as browser:

            def received() -> Any:
                return json.loads(browser.recv(timeout=30))

            assert received() == "joined"
            browser.send(json.dumps("from the browser"))
            assert received() == "from the browser"
            if settings.CHANNEL_LAYERS["default"]["CONFIG"].get("url") != "memory://":  # which is of one process
                assert async_to_sync(layer.receive)("visits") == {"type": "visit"}
                layer.group_send_sync("room", {"type": "room.message", "text": "from the test"})
                assert received() == "from the test"
