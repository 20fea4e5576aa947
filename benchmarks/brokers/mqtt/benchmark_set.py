"""MQTT, at QoS 0 and 1, beside the bare client libraries and starlette_web's layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tests.support.brokers import mosquitto

from ...harness.bare import bare
from ...harness.contenders import OURS, Contender, ours
from ...harness.measuring import Figures
from ...harness.runner import BenchmarkSet, Measure, Scenario, Target, against
from ...scenarios.fan_out import fan_out
from ...scenarios.latency import latency
from . import starlette_peer
from .peers import BareAiomqtt, BareGmqtt, BarePaho

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
    if not quick:
        makers[STARLETTE] = lambda port, qos: starlette_peer.starlette_web(STARLETTE, port)

    def each(qos: int, measure: Callable[..., Figures], messages: int) -> dict[str, Measure]:
        """Everybody with as many messages, but those that wait 44 ms for each (mosquitto's acknowledgements)."""
        names = [name for name in makers if not (qos and name == STARLETTE)]
        numbers = {name: messages // (10 if qos and name in (PAHO, AIOMQTT) else 1) // few for name in names}
        return {
            name: partial(_measure, partial(measure, messages=numbers[name]), makers[name](server.port, qos))
            for name in names
        }

    scenarios = []
    for qos in (0, 1):
        one, many = partial(fan_out, members=1), partial(fan_out, members=100)
        scenarios += [
            Scenario(f"latency, QoS {qos}", each(qos, latency, 1000)),
            Scenario(f"group_send to 1, QoS {qos}", each(qos, one, 5000)),
            Scenario(f"group_send to 1, 10 senders, QoS {qos}", each(qos, partial(one, senders=10), 5000)),
            Scenario(f"group_send to 100, QoS {qos}", each(qos, many, 500)),
            Scenario(f"group_send to 100, 10 senders, QoS {qos}", each(qos, partial(many, senders=10), 500)),
        ]
    contenders = tuple(make(server.port, 0) for make in makers.values())
    targets = () if quick else _targets()
    return BenchmarkSet("mqtt", contenders, tuple(scenarios), targets, partial(_running, server, STARLETTE in makers))


def _measure(measure: Measure, at_this_qos: Contender, contender: Contender) -> Figures:
    """The contender of the tables, as it is at one QoS."""
    return measure(at_this_qos)


@contextmanager
def _running(server: mosquitto.Mosquitto, starlette: bool) -> Iterator[Callable[[], object]]:
    if starlette:
        starlette_peer.install()
    with mosquitto.running(server):
        yield lambda: None


def _targets() -> tuple[Target, ...]:
    to_one = (
        against(GMQTT, f"group_send to 1, {senders}QoS {qos}", "deliveries/s", at_least=0.6)
        for qos in (0, 1)
        for senders in ("", "10 senders, ")
    )
    return (
        *to_one,
        against(STARLETTE, "group_send to 1, QoS 0", "deliveries/s", at_least=5),
        against(STARLETTE, "group_send to 1, 10 senders, QoS 0", "deliveries/s", at_least=5),
        against(STARLETTE, "group_send to 100, QoS 0", "deliveries/s", at_least=10),
        against(STARLETTE, "group_send to 100, 10 senders, QoS 0", "deliveries/s", at_least=10),
        against(STARLETTE, "latency, QoS 0", "p50 us", at_most=1),
    )
