"""The brokers that the contract suites run over. A new broker adds one entry to `KINDS`, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from django_anyio_channels import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    MQTTChannelLayer,
    PostgreSQLChannelLayer,
    RedisStreamsChannelLayer,
    ShardedChannelLayer,
)
from django_anyio_channels.layers.memory import InMemoryBroker
from tests.brokers import mosquitto, postgres, redis
from tests.brokers.mosquitto import Mosquitto
from tests.brokers.server import running


class Broker(Protocol):
    """One running broker of its own for the tests of one kind."""

    def layer(self) -> BaseChannelLayer:
        """One more layer object of this broker, not connected. Its probe interval is at most one second."""

    def config(self) -> dict[str, Any]:
        """A CONFIG of `AnyioChannelLayer` for this broker; every layer made with it is one more process."""


class MortalBroker(Broker, Protocol):
    """A broker in a process of its own, which tests may kill."""

    def kill(self) -> None:
        """Kill it at once (SIGKILL); returns when nothing listens any more."""

    def start(self) -> None:
        """Start it again at the same address; returns when it accepts connections. Does nothing if it runs."""

    def freeze(self) -> None:
        """Have it accept bytes and answer nothing (SIGSTOP)."""

    def thaw(self) -> None:
        """Undo `freeze`; does nothing if it isn't frozen."""


@dataclass(frozen=True)
class Kind:
    """What the suites need to know of one broker."""

    name: str
    run: Callable[[], AbstractContextManager[Broker]]
    """Starts a broker and stops it at the end."""

    backends: tuple[str, ...] = ("asyncio",)
    """The anyio backends that the layer runs on."""

    queues: bool = True
    mortal: bool = True
    """The broker is a process that can be killed: a `MortalBroker`."""

    blocking: bool = False
    """The layer is a `BlockingPublisher`."""

    pattern: Callable[[str], str] | None = None
    """Makes the pattern that matches every group beginning with a given text of letters, digits and ``.``.

    None for a broker without patterns.
    """

    patterns_of_levels: bool = False
    """The broker has patterns, but none for the beginning of a name; the tests of its layer test them."""

    django: bool = True
    """`AnyioChannelLayer` is tested over it."""


class RemoteMemoryLayer(InMemoryChannelLayer):
    """In memory, but like a broker across a network: it takes messages from connected event loops only."""

    publish_blocking = None  # type: ignore[assignment]


@dataclass
class MemoryBroker:
    """The in-memory broker, as many nodes as layers."""

    layer_class: type[InMemoryChannelLayer]
    broker: InMemoryBroker = field(default_factory=InMemoryBroker)

    def layer(self) -> BaseChannelLayer:
        return self.layer_class(broker=self.broker)

    def config(self) -> dict[str, Any]:
        return {"layer": self.layer_class, "options": {"broker": self.broker}}


@contextmanager
def run_memory() -> Iterator[MemoryBroker]:
    yield MemoryBroker(InMemoryChannelLayer)


class SpreadMemoryLayer(ShardedChannelLayer):
    """A project's own way to make one."""

    def __init__(self, brokers: list[InMemoryBroker]) -> None:
        super().__init__([InMemoryChannelLayer(broker=broker) for broker in brokers])


@dataclass
class SpreadMemory:
    """Three in-memory brokers that one layer is spread over."""

    brokers: list[InMemoryBroker] = field(default_factory=lambda: [InMemoryBroker() for _ in range(3)])

    def layer(self) -> BaseChannelLayer:
        return SpreadMemoryLayer(self.brokers)

    def config(self) -> dict[str, Any]:
        return {"layer": SpreadMemoryLayer, "options": {"brokers": self.brokers}}


@contextmanager
def run_spread_memory() -> Iterator[SpreadMemory]:
    yield SpreadMemory()


@dataclass
class PostgresBroker:
    """A PostgreSQL server of its own."""

    postgres: postgres.Postgres

    def layer(self) -> BaseChannelLayer:
        return PostgreSQLChannelLayer(self.postgres.url, probe_interval=1.0)

    def config(self) -> dict[str, Any]:
        return {"url": self.postgres.url, "options": {"probe_interval": 1.0}}

    def kill(self) -> None:
        self.postgres.server.kill()

    def start(self) -> None:
        if not self.postgres.server.running:
            self.postgres.server.start()

    def freeze(self) -> None:
        self.postgres.server.freeze()

    def thaw(self) -> None:
        if self.postgres.server.running:
            self.postgres.server.thaw()


@contextmanager
def run_postgres() -> Iterator[PostgresBroker]:
    # A layer in a thread or loop of its own keeps its two connections until the tests end.
    broker = postgres.plain("max_connections=500")
    with running(broker.server):
        yield PostgresBroker(broker)


@dataclass
class MosquittoBroker:
    """A mosquitto, spoken to at QoS 1."""

    mosquitto: Mosquitto

    def layer(self) -> BaseChannelLayer:
        return MQTTChannelLayer(self.mosquitto.url, probe_interval=1.0)

    def config(self) -> dict[str, Any]:
        return {"url": self.mosquitto.url, "options": {"probe_interval": 1.0}}

    def kill(self) -> None:
        self.mosquitto.server.kill()

    def start(self) -> None:
        if not self.mosquitto.server.running:
            self.mosquitto.server.start()

    def freeze(self) -> None:
        self.mosquitto.server.freeze()

    def thaw(self) -> None:
        if self.mosquitto.server.running:
            self.mosquitto.server.thaw()


@contextmanager
def run_mosquitto() -> Iterator[MosquittoBroker]:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        yield MosquittoBroker(broker)


KINDS: list[Kind] = [
    Kind(
        name="memory",
        run=run_memory,
        backends=("asyncio", "trio"),
        mortal=False,
        blocking=True,
        pattern=lambda beginning: f"{beginning}*",
    ),
    Kind(
        name="spread-memory",
        run=run_spread_memory,
        mortal=False,
        pattern=redis.beginning_with,
        # Each route of a Django layer over several brokers has its own test.
        django=False,
    ),
    Kind(name="valkey", run=lambda: redis.for_contract(redis.plain("valkey")), pattern=redis.beginning_with),
    Kind(
        name="sentinel",
        run=redis.sentinels_for_contract,
        pattern=redis.beginning_with,
        # Once the master is found, the road is the one of "valkey".
        mortal=False,
        django=False,
    ),
    Kind(
        name="two-valkeys",
        run=lambda: redis.several_for_contract(redis.plain("valkey"), redis.plain("valkey")),
        pattern=redis.beginning_with,
        django=False,
    ),
    Kind(name="postgres", run=run_postgres),
    Kind(name="mqtt", run=run_mosquitto, patterns_of_levels=True),
    Kind(
        name="streams",
        run=lambda: redis.for_contract(redis.plain("redis"), RedisStreamsChannelLayer),
        pattern=redis.beginning_with,
    ),
]
