"""Server-sent events behind each ASGI server, read by a client that knows nothing but HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest

from tests.asgi.serving import COMMANDS, MORE_COMMANDS, noise, serve
from tests.support.brokers.server import Server, running, wait_until

PATIENCE = 20


def get(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    # Closed together.
    response.connection = connection  # type: ignore[attr-defined]
    return response


def ask(server: Server, path: str) -> bytes:
    response = get(server, path)
    body = response.read()
    assert response.status == 200, body
    response.connection.close()  # type: ignore[attr-defined]
    return body


@contextmanager
def stream(server: Server, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    response = get(server, path, **headers)
    yield response
    response.close()
    response.connection.close()  # type: ignore[attr-defined]


def event(response: http.client.HTTPResponse) -> dict[str, str]:
    """The fields of the next event that has data."""
    while True:
        fields: dict[str, str] = {}
        while line := response.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        if "data" in fields:
            return fields


@pytest.mark.parametrize("kind", [*COMMANDS, *MORE_COMMANDS])
def test_a_client_reads_comes_back_and_leaves(kind: str) -> None:
    server = serve(kind, "tests.browser.site", "memory://")
    with running(server):
        with stream(server, "/stream/?group=room", **{"Accept-Encoding": "gzip"}) as first:
            assert first.status == 200
            assert first.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert first.headers["Cache-Control"] == "no-cache, no-store, no-transform"
            assert first.headers["X-Accel-Buffering"] == "no"
            while not first.readline().startswith(b"id: "):
                pass
            ask(server, "/publish/?" + urlencode({"group": "room", "text": "one"}))
            one = event(first)
            assert json.loads(one["data"]) == {"type": "group.message", "message": "one"}
            while first.readline() != b":\n":
                pass  # until a heartbeat
        # Leaving is unsubscribing.
        wait_until(lambda: json.loads(ask(server, "/channels/")) == {"channels": 0}, "the client has left")
        ask(server, "/publish/?" + urlencode({"group": "room", "text": ["two", "three"]}, doseq=True))
        with stream(server, "/stream/?group=room", **{"Last-Event-ID": one["id"]}) as second:
            assert [json.loads(event(second)["data"])["message"] for _ in range(2)] == ["two", "three"]
        wait_until(lambda: json.loads(ask(server, "/channels/")) == {"channels": 0}, "the client has left")
        server.shutdown()
        assert noise(server) == ""


def test_members_are_there_as_long_as_their_streams() -> None:
    server = serve("uvicorn", "tests.browser.site", "memory://")
    with running(server):
        with stream(server, "/frames/?group=room&member=ana") as ana:
            frames = iter(lambda: json.loads(event(ana)["data"]), None)
            assert next(frame for frame in frames if frame["type"] == "joined")["members"] == {"ana": [{}]}
            with stream(server, "/frames/?group=room&member=bob") as bob:
                assert json.loads(event(bob)["data"])["type"] == "hello"
                assert json.loads(event(bob)["data"])["members"] == {"ana": [{}], "bob": [{}]}
                changes = (frame for frame in frames if frame.get("member") == "bob")
                assert (frame := next(changes)) == {
                    "type": "presence",
                    "group": "room",
                    "event": "joined",
                    "member": "bob",
                    "metas": [{}],
                }, frame
            assert next(changes)["event"] == "left"
        server.shutdown()
        assert noise(server) == ""
