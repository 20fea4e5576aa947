"""NATS, on which a contender of the benchmarks is built. No layer of ours speaks to it."""

from __future__ import annotations

from .debian import Unpacked, unpack
from .server import Server, accepts_connections, find_program, free_port, new_folder


def nats() -> Server:
    """A NATS server, not started yet: of environment variable NATS_SERVER, of PATH, or Debian's package, cached."""
    found = find_program("NATS_SERVER", ["nats-server"])
    program = Unpacked(found, {}) if found else unpack("usr/sbin/nats-server", ["nats-server"])
    port, folder = free_port(), new_folder("nats")
    return Server(
        name="nats-server",
        port=port,
        command=[program.program, "--addr", "127.0.0.1", "--port", str(port)],
        answers=accepts_connections(port),
        folder=folder,
        environment=program.environment,
    )
