"""MQTT, at QoS 0 and 1, beside the bare client libraries, and starlette_web's layer where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

from tests.brokers import mosquitto

from .bare import bare
from .contenders import OURS, Contender, ours
from .harness import BenchmarkSet, Measure, Scenario, Target, against
from .mqtt_peers import BareAiomqtt, BareGmqtt, BarePaho, StarletteWeb
from .scenarios import Figures, fan_out, latency

GMQTT, PAHO, AIOMQTT, STARLETTE = "bare gmqtt", "bare paho", "aiomqtt", "starlette_web"

_MAKERS: dict[str, Callable[[int, int], Contender]] = {
    OURS: lambda port, qos: ours(url=f"mqtt://127.0.0.1:{port}/?qos={qos}"),
    GMQTT: lambda port, qos: bare(GMQTT, lambda: BareGmqtt(port, qos)),
    PAHO: lambda port, qos: bare(PAHO, lambda: BarePaho(port, qos)),
    AIOMQTT: lambda port, qos: bare(AIOMQTT, lambda: BareAiomqtt(port, qos)),
}


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed."""
    # Else mosquitto makes a client that has no TCP_QUICKACK wait 40 ms for each window, and nothing else is measured.
    server = mosquitto.mosquitto("set_tcp_nodelay true", "max_inflight_messages 0")
    few = 50 if quick else 1
    makers = dict(_MAKERS)
    if find_spec("starlette_web") is not None:
        makers[STARLETTE] = lambda port, qos: bare(STARLETTE, lambda: StarletteWeb(port))

    def each(qos: int, measure: Measure) -> dict[str, Measure]:
        names = [name for name in makers if not (qos and name == STARLETTE)]
        return {name: partial(_measure, measure, makers[name](server.port, qos)) for name in names}

    scenarios = []
    for qos in (0, 1):
        one, many = partial(fan_out, members=1, messages=5000 // few), partial(fan_out, members=100)
        scenarios += [
            Scenario(f"latency, QoS {qos}", each(qos, partial(latency, messages=1000 // few))),
            Scenario(f"group_send to 1, QoS {qos}", each(qos, one)),
            Scenario(f"group_send to 1, 10 senders, QoS {qos}", each(qos, partial(one, senders=10))),
            Scenario(f"group_send to 100, QoS {qos}", each(qos, partial(many, messages=500 // few))),
        ]
    contenders = tuple(make(server.port, 0) for make in makers.values())
    targets = () if quick else _targets(STARLETTE in makers)
    return BenchmarkSet("mqtt", contenders, tuple(scenarios), targets, partial(_running, server))


def _measure(measure: Measure, at_this_qos: Contender, contender: Contender) -> Figures:
    """The contender of the tables, as it is at one QoS."""
    return measure(at_this_qos)


@contextmanager
def _running(server: mosquitto.Mosquitto) -> Iterator[Callable[[], object]]:
    with mosquitto.running(server):
        yield lambda: None


def _targets(starlette: bool) -> tuple[Target, ...]:
    to_one = tuple(
        against(GMQTT, f"group_send to 1, 10 senders, QoS {qos}", "deliveries/s", at_least=0.6) for qos in (0, 1)
    )
    if not starlette:
        return to_one
    return (
        *to_one,
        against(STARLETTE, "group_send to 1, QoS 0", "deliveries/s", at_least=5),
        against(STARLETTE, "group_send to 100, QoS 0", "deliveries/s", at_least=10),
        against(STARLETTE, "latency, QoS 0", "p50 us", at_most=1),
    )
