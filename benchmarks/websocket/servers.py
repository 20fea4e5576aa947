"""The ASGI servers, each in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.brokers.server import free_port

_APPLICATION = "benchmarks.websocket.applications:application"
_SECONDS = 30.0

SERVERS: Mapping[str, list[str]] = {
    "uvicorn": [
        "uvicorn",
        "--host=127.0.0.1",
        "--port={port}",
        "--log-level=critical",
        "--ws=websockets",
        _APPLICATION,
    ],
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "--access-log", os.devnull, _APPLICATION],
    "hypercorn": ["hypercorn", "--bind=127.0.0.1:{port}", "--log-level=critical", _APPLICATION],
    "granian": ["granian", "--interface=asgi", "--host=127.0.0.1", "--port={port}", "--no-log", _APPLICATION],
}
"""How each is started, as a Python module."""


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    port: int
    pid: int
    idle_memory: int
    """Bytes that it took before anybody had connected."""

    def memory(self) -> int:
        """Bytes that it has taken since, with its child processes."""
        return _memory(self.pid) - self.idle_memory


@contextmanager
def serving(server: str, environment: Mapping[str, Any]) -> Iterator[Running]:
    """Serve the application, for which ``environment`` has variables, as objects for JSON or texts."""
    port = free_port()
    command = [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[server])]
    with subprocess.Popen(command, env=variables_of(environment), stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield Running(port, process.pid, _memory(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def variables_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a process that imports the applications."""
    variables = {"CHANNEL_LAYERS": {}, "INSTALLED_APPS": ["channels"], **environment}
    own = {
        f"BENCHMARK_{name}": value if isinstance(value, str) else json.dumps(value) for name, value in variables.items()
    }
    return {**os.environ, "PYTHONWARNINGS": "ignore", **own}


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


def _memory(pid: int) -> int:
    """Resident bytes of a process and its descendants (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_memory, map(int, children)))
