"""Which channel layers and which servers the tests run over."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.asgi.serving import COMMANDS, serve
from tests.support.brokers.server import Server, running

SITE = "tests.asgi.site"
DEMO = "config"

LAYERS = ["memory"]


@pytest.fixture(scope="module", params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    """The URL of a channel layer."""
    urls = {"memory": "memory://"}
    return urls[request.param]


@pytest.fixture(scope="module", params=COMMANDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of server."""
    kind: str = request.param
    return kind


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def stop(request: pytest.FixtureRequest) -> int:
    """A signal that asks a process to end."""
    return int(request.param)


@pytest.fixture(scope="module")
def site(kind: str, layer: str) -> Iterator[Server]:
    """The consumers of the tests behind a running server."""
    server = serve(kind, SITE, layer)
    with running(server):
        yield server


@pytest.fixture
def own_site(kind: str, layer: str) -> Iterator[Server]:
    """Another one, for a test that stops it."""
    server = serve(kind, SITE, layer)
    with running(server):
        yield server


@pytest.fixture(scope="module")
def demo(kind: str, layer: str) -> Iterator[Server]:
    """The demo chat behind a running server."""
    server = serve(kind, DEMO, layer)
    with running(server):
        yield server
