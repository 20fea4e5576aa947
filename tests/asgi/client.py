"""A WebSocket client that speaks JSON, as a browser's page would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.support.brokers.server import Server

PATIENCE = 20.0
"""How many seconds a message may take before a test fails."""


@dataclass(frozen=True)
class Client:
    """One open connection."""

    socket: ClientConnection

    def send(self, **content: Any) -> None:
        self.socket.send(json.dumps(content))

    def receive(self) -> Any:
        """Return the next message; a test that waits too long fails with TimeoutError."""
        return json.loads(self.socket.recv(PATIENCE))

    def receive_until(self, **expected: Any) -> Any:
        """Return the next message that has these contents, whatever comes before it."""
        while True:
            received = self.receive()
            if expected.items() <= received.items():
                return received


@contextmanager
def client(server: Server, path: str, origin: str | None = None) -> Iterator[Client]:
    """Open a connection to ``path`` of a server, from its own pages by default."""
    here = f"127.0.0.1:{server.port}"
    with connect(
        f"ws://{here}/{path}",
        origin=Origin(origin or f"http://{here}"),
        open_timeout=PATIENCE,
        max_queue=None,  # a full one is not read, and the answer to a close waits behind it for ten seconds
        proxy=None,
    ) as socket:
        yield Client(socket)
