"""Real servers with WebSockets in one group, over Redis: how fast messages reach the clients.

The server is one process, the clients are another one. ``bare`` is the limit: an application without Channels and a
layer, which sends each text to all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from tests.support.brokers import redis as brokers

from ..harness.contenders import OURS, Contender, Layer
from ..harness.deliveries import Tally
from ..harness.measuring import Figures
from ..harness.runner import BenchmarkSet, Measure, Scenario, Target, against
from .client import measure
from .servers import SERVERS, serving

SLOW, PUBSUB, CORE, BARE = "ours, fast_dispatch off", "pubsub", "core", "bare"
_WINDOW = 5
"""Messages on their way at once."""
_DELIVERIES = {OURS: 200_000, SLOW: 20_000, PUBSUB: 20_000, CORE: 10_000, BARE: 200_000}
"""How many each contender makes in a round."""

_TARGETS: tuple[Target, ...] = (
    against(PUBSUB, "uvicorn, text, 1000 sockets", "deliveries/s", at_least=10),
    against(PUBSUB, "daphne, text, 1000 sockets", "deliveries/s", at_least=7),
    against(PUBSUB, "hypercorn, text, 1000 sockets", "deliveries/s", at_least=7),
    against(PUBSUB, "granian, text, 1000 sockets", "deliveries/s", at_least=7),
    against(PUBSUB, "uvicorn, text, 5000 sockets", "deliveries/s", at_least=7),
    against(PUBSUB, "uvicorn, sync, 1000 sockets", "deliveries/s", at_least=5),
    against(BARE, "uvicorn, text, 1000 sockets", "deliveries/s", at_least=0.65),
)


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed."""
    server = brokers.plain("redis")
    core_host = {"address": server.url, "socket_timeout": None}  # redis-py 8 ends idle consumers after 5 seconds
    layers: dict[str, Mapping[str, Any]] = {
        OURS: _layer("django_anyio_channels.AnyioChannelLayer", url=server.url),
        SLOW: _layer("django_anyio_channels.AnyioChannelLayer", url=server.url, fast_dispatch=False),
        PUBSUB: _layer("channels_redis.pubsub.RedisPubSubChannelLayer", hosts=[server.url]),
        CORE: _layer("channels_redis.core.RedisChannelLayer", hosts=[core_host], capacity=10_000),
        BARE: {},
    }

    def scenario(asgi_server: str, path: str, sockets: int, *names: str) -> Scenario:
        sockets = sockets // 50 if quick else sockets
        measures: dict[str, Measure] = {
            name: partial(
                _measure,
                server=asgi_server,
                layers=layers[name],
                path=path,
                sockets=sockets,
                messages=max(10, _DELIVERIES[name] // (50 if quick else 1) // sockets),
            )
            for name in names or layers
            if not (name == BARE and path != "text")
        }
        return Scenario(f"{asgi_server}, {path}, {sockets} sockets", measures)

    scenarios = [scenario("uvicorn", "text", sockets) for sockets in (100, 1000, 5000)]
    scenarios += [scenario(each, "text", 1000, OURS, PUBSUB, BARE) for each in SERVERS if each != "uvicorn"]
    scenarios += [
        scenario("uvicorn", path, sockets, OURS, PUBSUB) for path in ("json", "sync") for sockets in (100, 1000)
    ]
    return BenchmarkSet(
        "websocket",
        tuple(Contender(name, _no_layer) for name in layers),
        tuple(scenarios),
        () if quick else _TARGETS,
        partial(_running, server),
    )


def _layer(backend: str, **config: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": backend, "CONFIG": config}}


def _no_layer() -> Layer:
    """The layer is made in the server's process."""
    return cast(Layer, None)


def _measure(
    contender: Contender, server: str, layers: Mapping[str, Any], path: str, sockets: int, messages: int
) -> Figures:
    """One client has messages sent to a group of consumers on a real server, and counts what its WebSockets get."""
    with serving(server, layers, bare=not layers) as running:
        measured = asyncio.run(measure(running.port, path, sockets, messages, _WINDOW))
        values = {**measured.values, "kB for each socket": running.memory() / sockets / 1000}
        return Figures(values, Tally(sockets * messages, measured.right, measured.wrong))


@contextmanager
def _running(server: brokers.Redis) -> Iterator[Callable[[], object]]:
    with brokers.running(server):
        yield partial(server.ask, "FLUSHALL")
