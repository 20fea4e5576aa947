"""The brokers that the contract suites run over. A new broker adds one entry to `KINDS`, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from django_anyio_channels import BaseChannelLayer, InMemoryChannelLayer, RedisStreamsChannelLayer
from django_anyio_channels.brokers.memory.broker import InMemoryBroker
from django_anyio_channels.django.configuration.config import read_config
from tests.support.brokers import mosquitto, postgres, redis
from tests.support.brokers.server import Server, running


class Broker(Protocol):
    """One running broker, or a list of them, for the tests of one kind."""

    def layers(self) -> list[BaseChannelLayer]:
        """Return new layer objects, not connected, one for each broker. Their probe interval is at most one second."""

    def config(self) -> dict[str, Any]:
        """Return a CONFIG of `AnyioChannelLayer`; every layer made with it is one more process."""


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


class HistoryBroker(Broker, Protocol):
    """A broker that keeps histories, and what is delivered until it is acknowledged."""

    def layers(self, **options: Any) -> list[BaseChannelLayer]:
        """Return a new layer object in a list, with such options besides those of `Broker.layers`."""

    def config(self, **options: Any) -> dict[str, Any]:
        """Return a CONFIG whose ``options`` have these, too."""

    def break_connections(self) -> None:
        """End every connection that layers have now."""

    def fail_over(self) -> None:
        """Kill the broker (SIGKILL); return when it is back, or another one in its place, with all that it accepted.

        Only of a kind that is `Kind.durable`.
        """


@dataclass(frozen=True)
class Kind:
    """What the suites need to know of one broker."""

    name: str
    run: Callable[[], AbstractContextManager[Broker]]
    """Starts a broker and stops it at the end."""

    backends: tuple[str, ...] = ("asyncio",)
    """The event loops that the verbs of the layer are tested on.

    uvloop's transports are not asyncio's, and end in other ways; what stands above a driver's connection sees nothing
    of them. So uvloop's turn comes once for each driver. The other kinds connect as these do, and `AnyioChannelLayer`
    has but the verbs of a layer: it meets uvloop in a whole program, with threads and forks.
    """

    queues: bool = True
    several: bool = False
    """A list of brokers: what is tested over it is `Channel` and `AnyioChannelLayer`, not the contract of a layer."""

    mortal: bool = True
    """The broker is a process that can be killed: a `MortalBroker`."""

    blocking: bool = False
    """The layer is a `SupportsBlockingPublish`."""

    pattern: Callable[[str], str] | None = None
    """Makes the pattern that matches every group beginning with a given text of letters, digits and ``.``.

    None for a broker without patterns.
    """

    patterns_of_levels: bool = False
    """The broker has patterns, but none for the beginning of a name; the tests of its layer test them."""

    one_way: bool = True
    """Whatever one sender sends, by whichever names, goes the same way and arrives in the order sent."""

    acknowledged: bool = True
    """`publish` returns when the broker has the message. Else what another layer does next may overtake it."""

    django: bool = True
    """`AnyioChannelLayer` is tested over it."""

    variant: bool = False
    """Another way to a broker that is a kind itself.

    `AnyioChannelLayer` is tested over it with encryption only, and consumers, event loops, threads and forks are not:
    they use the verbs of a layer and see nothing of the way to the broker.
    """

    measured: bool = False
    """Its tests count for the coverage: some lines are reached by no others."""

    only_queues: bool = False
    """Only its queues differ from another kind's."""

    same_queues: bool = False
    """Its queues are those of another kind, and `test_queues` runs over that one. Bindings from groups are tested."""

    only_promises: bool = False
    """Only its address differs from another kind's: what comes after `connect` is that kind's, and tested there."""

    history: bool = False
    """It keeps histories, and what is delivered until it is acknowledged: a `HistoryBroker`."""

    only_history: bool = False
    """Only its history is tested; the rest of it is another kind's."""

    measured_history: bool = False
    """Its tests about histories count for the coverage, and `AnyioChannelLayer` is tested over it."""

    durable: bool = False
    """What the broker has accepted outlives its being killed, or its failover."""

    def __str__(self) -> str:
        return self.name


class RemoteMemoryLayer(InMemoryChannelLayer):
    """In memory, but like a broker across a network: it takes messages from connected event loops only."""

    publish_blocking = None  # type: ignore[assignment]


class AcknowledgingLayer(RedisStreamsChannelLayer):
    """Its queues are those of acknowledged jobs; a job is acknowledged when it is taken."""

    async def take(self, queue: str) -> bytes:
        event = await self.receive_job(queue)
        assert event.ack_handle is not None
        event.ack_handle.release()
        return event.message


@dataclass
class MemoryBrokers:
    """In-memory brokers, as many nodes as layers."""

    brokers: list[InMemoryBroker]

    def layers(self) -> list[BaseChannelLayer]:
        return [InMemoryChannelLayer(broker=broker) for broker in self.brokers]

    def config(self) -> dict[str, Any]:
        [broker] = self.brokers
        return {"layer": InMemoryChannelLayer, "options": {"broker": broker}}


@contextmanager
def run_memory(count: int = 1) -> Iterator[MemoryBrokers]:
    yield MemoryBrokers([InMemoryBroker() for _ in range(count)])


_BOUNDS = ("history_length", "history_age", "history_bytes")


@dataclass
class MemoriesWithHistory:
    """In-memory brokers: all layers with the same bounds of the history share one."""

    brokers: dict[tuple[object, ...], InMemoryBroker] = field(default_factory=dict)

    def layers(self, **options: Any) -> list[BaseChannelLayer]:
        return [InMemoryChannelLayer(**self._options(options))]

    def config(self, **options: Any) -> dict[str, Any]:
        return {"layer": InMemoryChannelLayer, "options": self._options(options)}

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        options = {"history_length": 1000, **options}
        broker = self.brokers.setdefault(tuple(map(options.get, _BOUNDS)), InMemoryBroker())
        return {"broker": broker, **options}

    def break_connections(self) -> None:
        """As for layers that leave too much unread."""
        for broker in self.brokers.values():
            with broker._lock:
                subscribed = [*broker._topics.values(), *(inboxes for _, inboxes in broker._patterns.values())]
                for inbox in {inbox: None for inboxes in subscribed for inbox in inboxes}:
                    inbox.open = False
                    broker._cut_off(inbox)
                    inbox.notifier.notify()

    def fail_over(self) -> None:
        raise AssertionError("what is in memory ends with its process")


@contextmanager
def run_memories_with_history() -> Iterator[MemoriesWithHistory]:
    yield MemoriesWithHistory()


@dataclass(frozen=True)
class ServerBroker:
    """One server, or several that are killed and started together, used as a project would: by URL."""

    url: str | list[str]
    servers: tuple[Server, ...]
    options: dict[str, Any] = field(default_factory=lambda: {"probe_interval": 1.0})
    wait_until_ready: Callable[[], None] = lambda: None
    """For servers that have to find each other once they accept connections."""
    break_connections: Callable[[], None] = lambda: None
    fail_over: Callable[[], None] = lambda: None

    def layers(self, **options: Any) -> list[BaseChannelLayer]:
        return list(read_config(self.config(**options)).make_layers())

    def config(self, **options: Any) -> dict[str, Any]:
        return {"url": self.url, "options": {**self.options, **options}}

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        for server in self.servers:
            if not server.running:
                server.start()
        self.wait_until_ready()

    def freeze(self) -> None:
        for server in self.servers:
            server.freeze()

    def thaw(self) -> None:
        for server in self.servers:
            if server.running:
                server.thaw()


class AcknowledgingServer(ServerBroker):
    """One that `AcknowledgingLayer` uses."""

    def config(self, **options: Any) -> dict[str, Any]:
        return {"layer": AcknowledgingLayer, "options": {**self.options, **options}}


@contextmanager
def run_servers(url: str | list[str], *servers: Server) -> Iterator[ServerBroker]:
    with running(*servers):
        yield ServerBroker(url, servers)


def run_redis(flavour: redis.Flavour) -> AbstractContextManager[ServerBroker]:
    made = redis.plain(flavour)
    return run_servers(made.url, made.server)


def cut_off(*servers: redis.Redis) -> None:
    """Have servers close every connection."""
    for server in servers:
        if server.server.running:
            with server.client() as admin:
                redis.cut_off(admin)


@contextmanager
def run_streams() -> Iterator[ServerBroker]:
    """With a log on the disk: what is accepted outlives the process."""
    made = redis.plain("redis", *redis.WITH_AOF)
    with running(made.server):
        yield ServerBroker(
            redis.with_streams(made.url),
            (made.server,),
            break_connections=lambda: cut_off(made),
            fail_over=made.server.restart,
        )


@contextmanager
def run_acknowledging() -> Iterator[ServerBroker]:
    made = redis.plain("valkey")
    options = {"url": redis.with_streams(made.url), "probe_interval": 1.0}
    with running(made.server):
        yield AcknowledgingServer("", (made.server,), options)


def run_two_valkeys() -> AbstractContextManager[ServerBroker]:
    made = [redis.plain("valkey") for _ in range(2)]
    return run_servers([each.url for each in made], *(each.server for each in made))


@contextmanager
def run_sentinels() -> Iterator[ServerBroker]:
    with redis.sentinel_set() as made:
        yield ServerBroker(made.url, ())


@contextmanager
def run_streams_over_sentinels() -> Iterator[ServerBroker]:
    with redis.sentinel_set() as made:

        def fail_over() -> None:
            """What the master has accepted has reached the replica then."""
            master = made.master()
            master.ask("WAIT", 1, 5000)
            master.server.kill()
            made.wait_for_other_master(master)
            master.server.start()

        yield ServerBroker(
            redis.with_streams(made.url), (), break_connections=lambda: cut_off(*made.servers), fail_over=fail_over
        )


@contextmanager
def run_cluster(*, streams: bool = False) -> Iterator[ServerBroker]:
    with redis.cluster() as made:
        servers = tuple(each.server for each in made.nodes)
        url = redis.with_streams(made.url) if streams else made.url
        yield ServerBroker(
            url, servers, wait_until_ready=made.wait_until_healthy, break_connections=lambda: cut_off(*made.nodes)
        )


def run_postgres() -> AbstractContextManager[ServerBroker]:
    # A layer in a thread or loop of its own keeps its two connections until the tests end.
    made = postgres.plain("max_connections=500")
    return run_servers(made.url, made.server)


@contextmanager
def run_postgres_with_history() -> Iterator[ServerBroker]:
    """Each commit waits until it has left the server's memory, so that nothing accepted is lost when that is killed."""
    made = postgres.plain("max_connections=500")

    def break_connections() -> None:
        if made.server.running:
            made.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'django-any%%'"
            )

    options = {"probe_interval": 1.0, "history_length": 1000, "synchronous_commit": True}
    with running(made.server):
        yield ServerBroker(
            made.url, (made.server,), options, break_connections=break_connections, fail_over=made.server.restart
        )


def run_mosquitto(qos: int) -> AbstractContextManager[ServerBroker]:
    """Groups and direct messages travel at this quality of service; queues always travel at QoS 1."""
    made = mosquitto.mosquitto()
    return run_servers(f"{made.url}/?qos={qos}", made.server)


def beginning_with(text: str) -> str:
    """As a glob."""
    return f"{text}*"


ON_ASYNCIO = ("asyncio", "uvloop")

KINDS: list[Kind] = [
    Kind(
        name="memory",
        run=run_memory,
        backends=("asyncio", "uvloop", "trio"),
        mortal=False,
        blocking=True,
        pattern=beginning_with,
        measured=True,
    ),
    Kind(
        name="memory-history",
        run=run_memories_with_history,
        backends=("asyncio", "trio"),
        mortal=False,
        pattern=beginning_with,
        history=True,
        only_history=True,
        measured_history=True,
    ),
    Kind(
        name="three-memories",
        run=lambda: run_memory(3),
        several=True,
        mortal=False,
        django=False,
        measured=True,
    ),
    Kind(name="valkey", run=lambda: run_redis("valkey"), backends=ON_ASYNCIO, pattern=beginning_with),
    Kind(
        name="sentinel",
        run=run_sentinels,
        pattern=beginning_with,
        # Its failovers have tests of their own.
        mortal=False,
        only_promises=True,
        django=False,
    ),
    Kind(
        name="two-valkeys",
        run=run_two_valkeys,
        several=True,
        one_way=False,
        variant=True,
        measured=True,
    ),
    Kind(name="cluster", run=run_cluster, one_way=False, variant=True, measured=True),
    Kind(name="postgres", run=run_postgres, backends=ON_ASYNCIO, measured=True),
    Kind(
        name="postgres-history",
        run=run_postgres_with_history,
        variant=True,
        same_queues=True,
        history=True,
        only_history=True,
        measured_history=True,
        durable=True,
    ),
    Kind(
        name="mqtt",
        run=lambda: run_mosquitto(qos=1),
        backends=ON_ASYNCIO,
        patterns_of_levels=True,
        measured=True,
    ),
    Kind(
        name="mqtt-qos0",
        run=lambda: run_mosquitto(qos=0),
        patterns_of_levels=True,
        acknowledged=False,
        variant=True,
        # They travel at QoS 1 here too.
        same_queues=True,
    ),
    Kind(
        name="streams",
        run=run_streams,
        pattern=beginning_with,
        variant=True,
        history=True,
        measured_history=True,
        durable=True,
        # Those of jobs are ``acknowledging``'s, the others Redis'.
        same_queues=True,
    ),
    Kind(
        name="streams-cluster",
        run=lambda: run_cluster(streams=True),
        one_way=False,
        # Its masters are killed in tests of their own.
        mortal=False,
        variant=True,
        same_queues=True,
        history=True,
    ),
    Kind(
        name="streams-sentinel",
        run=run_streams_over_sentinels,
        mortal=False,
        pattern=beginning_with,
        history=True,
        only_history=True,
        durable=True,
    ),
    Kind(name="acknowledging", run=run_acknowledging, django=False, only_queues=True),
]
