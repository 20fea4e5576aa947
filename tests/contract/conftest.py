"""Parametrises the contract suites over `KINDS`, by the broker fixture that a test asks for."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from django_anyio_channels.brokers.mqtt.queues.handoff import orphaned_queues
from django_anyio_channels.django.process.background_loop import background

from .kinds import KINDS, Broker, HistoryBroker, Kind, MortalBroker
from .processes import Processes

NEEDS: dict[str, Callable[[Kind], bool]] = {
    "broker": lambda kind: True,
    "mortal_broker": lambda kind: kind.mortal,
    "queue_broker": lambda kind: kind.queues and not kind.same_queues,
    "binding_broker": lambda kind: kind.queues,
    "queueless_broker": lambda kind: not kind.queues,
    "pattern_broker": lambda kind: kind.pattern is not None,
    "patternless_broker": lambda kind: kind.pattern is None and not kind.patterns_of_levels,
    "blocking_broker": lambda kind: kind.blocking,
    "django_broker": lambda kind: kind.django,
    "distinct_broker": lambda kind: not kind.variant,
    "one_way_broker": lambda kind: kind.one_way,
    "channel_broker": lambda kind: kind.queues,
    "history_broker": lambda kind: kind.history,
    "mortal_history_broker": lambda kind: kind.history and kind.mortal,
    "durable_history_broker": lambda kind: kind.history and kind.durable,
    # What `AnyioChannelLayer` adds is the same over every way to a broker.
    "django_history_broker": lambda kind: kind.measured_history,
}
"""Which kinds a test runs over, by the fixtures that it asks for, itself or through others."""

QUEUES = {"queue_broker", "binding_broker", "channel_broker"}
"""The fixtures of tests about queues."""

HISTORY = {"history_broker", "mortal_history_broker", "durable_history_broker", "django_history_broker"}
"""The fixtures of tests about histories and acknowledgement."""

KEYS: dict[str, list[str] | None] = {"plain": None, "encrypted": ["new key", "old key"]}
"""``symmetric_encryption_keys``. Brokers carry bytes, so only over the in-memory broker a test runs with both."""


def encryptions(kind: Kind) -> Iterable[str]:
    """The keys of `KEYS` that `AnyioChannelLayer` is tested with over a kind."""
    if kind.name == "memory":
        return KEYS
    return ("encrypted",) if kind.variant else ("plain",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    needed = NEEDS.keys() & set(metafunc.fixturenames)
    if not needed:
        return
    kinds = [kind for kind in KINDS if all(NEEDS[fixture](kind) for fixture in needed)]
    if not needed & QUEUES:
        kinds = [kind for kind in kinds if not kind.only_queues]
    if not needed & HISTORY:
        kinds = [kind for kind in kinds if not kind.only_history]
    if not needed & {"django_broker", "channel_broker"}:
        kinds = [kind for kind in kinds if not kind.several]
    if needed & (QUEUES | {"pattern_broker"}):
        kinds = [kind for kind in kinds if not kind.only_promises]
    if memory_only := metafunc.definition.get_closest_marker("memory_only"):
        [_reason_why_nothing_is_lost] = memory_only.args
        kinds = [kind for kind in kinds if kind.name == "memory"]
    once = metafunc.definition.get_closest_marker("encrypted_only") is not None
    axes: dict[str, Callable[[Kind], Iterable[str]]] = {
        "anyio_backend": lambda kind: (
            ("asyncio",) if needed & {"django_broker", "django_history_broker"} else kind.backends
        ),
        "encryption": lambda kind: ("encrypted",) if once else encryptions(kind),
    }
    names = [name for name in axes if name in metafunc.fixturenames]
    in_memory = metafunc.definition.get_closest_marker("measured_in_memory") is not None
    measured_kinds = {
        kind.name
        for kind in kinds
        if (kind.measured_history if needed & HISTORY else kind.measured) and (kind.name == "memory" or not in_memory)
    }

    def measured(kind: Kind, case: tuple[str, ...]) -> bool:
        return kind.name in measured_kinds and (once or "encrypted" not in case) and "uvloop" not in case

    cases = [
        pytest.param(
            kind,
            *case,
            id="-".join(map(str, (kind, *case))),
            marks=() if measured(kind, case) else pytest.mark.unmeasured,
        )
        for kind in kinds
        for case in itertools.product(*(axes[name](kind) for name in names))
    ]
    metafunc.parametrize(["kind", *names], cases, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that no broker of the table is meant for; pytest would report them as skipped."""
    idle = [item for item in items if "NOTSET" in item.name]
    items[:] = [item for item in items if item not in idle]
    config.hook.pytest_deselected(items=idle)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    return cast(Kind, request.param)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest, kind: Kind) -> tuple[str, dict[str, bool]]:
    """Parametrised together with the kind: most brokers' drivers are asyncio's, and uvloop is one of its event loops.

    asyncio's debug mode doubles the time that everything takes, so one broker has it for all, and not while that is
    measured.
    """
    if request.param == "trio":
        return "trio", {}
    if request.param == "uvloop":
        return "asyncio", {"use_uvloop": True}
    debug = kind.name == "memory" and request.node.get_closest_marker("unmeasured") is not None
    return request.param, {"debug": debug}


class Brokers:
    """The brokers that run, one for each kind, started when first used."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, Broker] = {}

    def get(self, kind: Kind) -> Broker:
        if kind.name not in self._running:
            self._running[kind.name] = self._stack.enter_context(kind.run())
        return self._running[kind.name]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    running = Brokers()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """The process's background loop keeps its connections, and would connect them again during other tests.

    And what queues over MQTT still held when their last node left would be carried by all nodes of later tests.
    """
    yield
    background.stop()
    background.reset()
    orphaned_queues.clear()


@pytest.fixture
def broker(kind: Kind, brokers: Brokers) -> Broker:
    return brokers.get(kind)


@pytest.fixture
def queue_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def binding_broker(broker: Broker) -> Broker:
    """A broker for a layer that binds queues to groups."""
    return broker


@pytest.fixture
def queueless_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def pattern_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def patternless_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def blocking_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def django_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def distinct_broker(django_broker: Broker) -> Broker:
    """A broker for what is tested over no `Kind.variant`."""
    return django_broker


@pytest.fixture
def one_way_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def channel_broker(broker: Broker) -> Broker:
    """A broker for a `Channel`."""
    return broker


@pytest.fixture
def history_broker(broker: Broker) -> HistoryBroker:
    return cast(HistoryBroker, broker)


@pytest.fixture
def django_history_broker(broker: Broker) -> HistoryBroker:
    """A broker for what is tested through `AnyioChannelLayer`."""
    return cast(HistoryBroker, broker)


@pytest.fixture
def durable_history_broker(broker: Broker) -> HistoryBroker:
    return cast(HistoryBroker, broker)


@pytest.fixture
def mortal_history_broker(mortal_broker: MortalBroker) -> MortalBroker:
    return mortal_broker


@pytest.fixture
def mortal_broker(broker: Broker) -> Iterator[MortalBroker]:
    """A broker that the test may kill; the next test finds it running again."""
    mortal = cast(MortalBroker, broker)
    yield mortal
    mortal.thaw()
    mortal.start()


@pytest.fixture
def mortal_queue_broker(mortal_broker: MortalBroker, queue_broker: Broker) -> MortalBroker:
    return mortal_broker


@pytest.fixture
def mortal_django_broker(mortal_broker: MortalBroker, django_broker: Broker) -> MortalBroker:
    return mortal_broker


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: the tests of one kind share a broker."""
    run, numbers = uuid.uuid4().hex[:10], itertools.count()
    return lambda name: f"{name}.{run}.{next(numbers)}"


@pytest.fixture
def encryption(request: pytest.FixtureRequest) -> list[str] | None:
    return KEYS[request.param]


@pytest.fixture
def processes(django_broker: Broker, unique: Callable[[str], str], encryption: list[str] | None) -> Processes:
    """Layers as Django makes them, in a prefix of their own, with and without encryption."""
    return Processes({**django_broker.config(), "prefix": unique("t"), "symmetric_encryption_keys": encryption})


@pytest.fixture
def plain_processes(django_broker: Broker, unique: Callable[[str], str]) -> Processes:
    """`processes` for tests that encryption cannot touch."""
    return Processes({**django_broker.config(), "prefix": unique("t")})
