"""The servers of docs/guides/deployment.rst run the tutorial's chat over Redis, and end in order."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.support.brokers import redis as brokers

from .pages import page
from .reader import Reader, sections

PAGE = page("docs/guides/deployment.rst")
COMMANDS = [shlex.split(line.removeprefix("$ ")) for line in PAGE.code("servers").splitlines()]
PATIENCE = 20


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who has the tutorial behind them."""
    broker = brokers.plain("redis")
    with brokers.running(broker):
        reader = Reader(tmp_path_factory.mktemp("deployed"), broker)
        first, *others = sections()
        reader.follow(first)
        for title in others:
            reader.follow(title, commands=False)
        yield reader
        reader.stop()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_chat_runs_on_each_server(command: list[str], reader: Reader) -> None:
    server = reader.server(*(re.sub(r"\b8000$", str(reader.port), word) for word in command))
    server.start()
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_socket(reader.port)) for _ in range(5)]
        for socket in sockets:
            socket.send(json.dumps({"type": "hello", "since": None}))
            receive(socket, "hello")
        text = f"Hello from {command[0]}"
        sockets[0].send(json.dumps({"type": "message", "text": text}))
        for socket in sockets:
            assert receive(socket, "message", text=text)["position"]
        server.shutdown(PATIENCE)
        for socket in sockets:
            with pytest.raises(ConnectionClosed):
                while True:
                    socket.recv(PATIENCE)
    # Python up to 3.12 reports a connection that Hypercorn cancels after its timeout.
    assert raised(server.output()) <= {"asyncio.exceptions.CancelledError"}, server.output()


def raised(output: str) -> set[str]:
    """The last lines of tracebacks."""
    _, *tracebacks = output.split("Traceback (most recent call last):\n")
    return {next(line for line in each.splitlines() if not line.startswith(" ")) for each in tracebacks}


def open_socket(port: int) -> AbstractContextManager[ClientConnection]:
    origin = Origin(f"http://localhost:{port}")
    return connect(f"ws://localhost:{port}/ws/chat/", origin=origin, open_timeout=PATIENCE)


def receive(socket: ClientConnection, kind: str, **expected: Any) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(socket.recv(PATIENCE))
        if frame["type"] == kind and expected.items() <= frame.items():
            return frame


def test_systemd_starts_a_server_of_the_page() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(PAGE.code("unit"))
    command = shlex.split(unit["Service"]["ExecStart"])
    assert [command[0].rpartition("/")[2], command[1]] == COMMANDS[0][:2]
    assert int(unit["Service"]["TimeoutStopSec"]) > int(COMMANDS[0][-1])


def test_a_container_ends_by_sigterm() -> None:
    [line] = [line for line in PAGE.code("docker").splitlines() if line.startswith("CMD ")]
    assert json.loads(line.removeprefix("CMD "))[:2] == COMMANDS[0][:2]


def test_kubernetes_leaves_time_for_an_orderly_end() -> None:
    pod = yaml.safe_load(PAGE.code("kubernetes"))["spec"]["template"]["spec"]
    waits = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits + int(COMMANDS[0][-1]) + 10
