"""Real servers with WebSockets in one group, over Redis: how fast messages reach the clients.

The server is one process, the clients are another one. There are two limits: ``bare`` is an application without
Channels and a layer, which sends each text to all; ``frames`` writes a ready frame to all transports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from tests.support.brokers import postgres
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import running

from ..brokers.postgres.peers import migrate
from ..harness.contenders import OURS, Contender, Layer
from ..harness.deliveries import Tally
from ..harness.measuring import Figures
from ..harness.runner import BenchmarkSet, Figure, Measure, Scenario, Target, against
from .client import measure
from .coming_back import coming_back
from .servers import SERVERS, serving
from .workers import measure_worker

SLOW, PUBSUB, CORE, BARE = "ours, fast_dispatch off", "pubsub", "core", "bare"
POSTGRES, IN_MEMORY, FRAMES = "channels_postgres", "InMemoryChannelLayer", "frames"
_OURS = "django_anyio_channels.AnyioChannelLayer"
_WINDOW = 5
"""Messages on their way at once."""
_RATE = 2_000.0
"""Deliveries in a second that every contender can make."""
_DELIVERIES = {
    OURS: 200_000,
    SLOW: 20_000,
    PUBSUB: 20_000,
    CORE: 10_000,
    POSTGRES: 5_000,
    IN_MEMORY: 20_000,
    BARE: 200_000,
    FRAMES: 400_000,
}
"""How many each contender makes in a round."""

_TEXT, _READY = "uvicorn, text, 1000 sockets", "uvicorn, ready, 1000 sockets"
_TARGETS: tuple[Target, ...] = (
    against(PUBSUB, _TEXT, "deliveries/s", at_least=10),
    against(PUBSUB, _TEXT, f"p99 ms at {_RATE:g}/s", at_most=1),
    against(PUBSUB, _TEXT, "kB for each socket", at_most=1),
    against(BARE, _TEXT, "deliveries/s", at_least=0.65),
    *(
        against(PUBSUB, f"{server}, text, 1000 sockets", "deliveries/s", at_least=7)
        for server in SERVERS
        if server != "uvicorn"
    ),
    against(PUBSUB, "uvicorn, text, 5000 sockets", "deliveries/s", at_least=7),
    against(PUBSUB, "uvicorn, sync, 1000 sockets", "deliveries/s", at_least=5),
    Target(Figure(_READY, OURS, "deliveries/s"), Figure(_TEXT, BARE, "deliveries/s"), at_least=0.9),
    Target(Figure(_READY, OURS, "deliveries/s"), Figure(_TEXT, PUBSUB, "deliveries/s"), at_least=15),
)


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed."""
    few = 50 if quick else 1
    server, database = brokers.plain("redis"), postgres.plain()
    core_host = {"address": server.url, "socket_timeout": None}  # redis-py 8 ends idle consumers after 5 seconds
    entry = {**database.entry, "TIME_ZONE": None}
    environments: dict[str, Mapping[str, Any]] = {
        OURS: _layer(_OURS, url=server.url),
        SLOW: _layer(_OURS, url=server.url, fast_dispatch=False),
        PUBSUB: _layer("channels_redis.pubsub.RedisPubSubChannelLayer", hosts=[server.url]),
        CORE: _layer("channels_redis.core.RedisChannelLayer", hosts=[core_host], capacity=10_000),
        POSTGRES: {
            **_layer("benchmarks.brokers.postgres.listening.ListeningLayer", **entry),
            "DATABASES": {"default": {}, "channels_postgres": entry},
            "INSTALLED_APPS": ["channels", "channels_postgres"],
        },
        IN_MEMORY: _layer("channels.layers.InMemoryChannelLayer", capacity=10_000),
        BARE: {"LIMIT": "bare"},
        FRAMES: {"LIMIT": "frames"},
    }

    def scenario(asgi_server: str, path: str, sockets: int, *names: str) -> Scenario:
        sockets = sockets // few
        measures: dict[str, Measure] = {
            name: partial(
                _measure,
                server=asgi_server,
                environment=environments[name],
                path=path,
                sockets=sockets,
                messages=max(10, _DELIVERIES[name] // few // sockets),
            )
            for name in names
        }
        return Scenario(f"{asgi_server}, {path}, {sockets} sockets", measures)

    scenarios = [
        scenario("uvicorn", "text", 100, OURS, PUBSUB, CORE, BARE),
        scenario("uvicorn", "text", 1000, *environments),
        scenario("uvicorn", "text", 5000, OURS, PUBSUB, BARE),
        *(scenario("uvicorn", "ready", sockets, OURS) for sockets in (100, 1000, 5000)),
        *(scenario(each, "text", 1000, OURS, PUBSUB, BARE) for each in SERVERS if each != "uvicorn"),
        *(scenario("uvicorn", path, sockets, OURS, PUBSUB) for path in ("json", "sync") for sockets in (100, 1000)),
    ]
    for kind in ("async", "sync"):
        counts = {OURS: 20_000, CORE: 4_000}
        measures: dict[str, Measure] = {
            name: partial(_measure_worker, environment=environments[name], kind=kind, jobs=jobs // few)
            for name, jobs in counts.items()
        }
        scenarios.append(Scenario(f"runworker, {kind}", measures))
    histories: dict[str, dict[str, Any]] = {
        "memory": {"url": "memory://"},
        "streams": {"url": brokers.with_streams(server.url)},
        "postgres": {"url": database.url},
    }
    # One process cannot greet more browsers than that in the 10 seconds after which they give up.
    for way, sockets, groups in (("at once", 10_000, 1), ("at once", 10_000, 1000), ("like browsers", 10_000, 1)):
        for name, config in histories.items():
            clients, rooms = sockets // few, max(1, groups // few)
            herd: Measure = partial(
                coming_back,
                layer={"BACKEND": _OURS, "CONFIG": {**config, "options": {"history_length": 1000}}},
                sockets=clients,
                groups=rooms,
                has_survived=name != "memory",
                like_browsers=way == "like browsers",
            )
            scenarios.append(Scenario(f"coming back {way}, {name}, {clients} sockets, groups: {rooms}", {OURS: herd}))
    return BenchmarkSet(
        "websocket",
        tuple(Contender(name, _no_layer) for name in environments),
        tuple(scenarios),
        () if quick else _TARGETS,
        partial(_running, server, database),
    )


def _layer(backend: str, **config: Any) -> dict[str, Any]:
    return {"CHANNEL_LAYERS": {"default": {"BACKEND": backend, "CONFIG": config}}}


def _no_layer() -> Layer:
    """The layer is made in the server's process."""
    return cast(Layer, None)


def _measure_worker(contender: Contender, environment: Mapping[str, Any], kind: str, jobs: int) -> Figures:
    """``runworker`` in a process of its own: 16 senders send jobs, and it is asked when it has handled all."""
    layer = environment["CHANNEL_LAYERS"]["default"]
    roomy = {**layer, "CONFIG": {**layer["CONFIG"], "capacity": 100_000}}
    return measure_worker({"CHANNEL_LAYERS": {"default": roomy}}, kind, jobs)


def _measure(
    contender: Contender, server: str, environment: Mapping[str, Any], path: str, sockets: int, messages: int
) -> Figures:
    """One client has messages sent to a group of consumers on a real server, and counts what its WebSockets get."""
    with serving(server, environment) as running:
        measured = asyncio.run(measure(running.port, path, sockets, messages, _WINDOW, _RATE))
        values = {**measured.values, "kB for each socket": running.memory() / sockets / 1000}
        return Figures(values, Tally(measured.expected, measured.right, measured.wrong))


@contextmanager
def _running(server: brokers.Redis, database: postgres.Postgres) -> Iterator[Callable[[], object]]:
    with brokers.running(server), running(database.server):
        migrate({**database.entry, "TIME_ZONE": None})
        yield partial(server.ask, "FLUSHALL")
