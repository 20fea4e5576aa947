"""The supervisor of the demo's processes: who may have it kill one, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.asgi.client import client
from tests.asgi.stage import fetch, stage
from tests.support.brokers import postgres
from tests.support.brokers.server import Server, family, is_alive, running, wait_until
from tests.support.paths import ROOT


def folder_of(server: Server) -> Path:
    [folder] = server.folder.glob("stage-*")
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_it_ends(number: signal.Signals) -> None:
    server = stage(devices=True)
    with running(server):
        assert server.process
        wait_until(lambda: server.output().count("Running worker") == 2, "two workers run")
        pid = server.process.pid
        # The supervisor, a guard and its group, a broker, mosquitto, a device, two servers, two workers.
        wait_until(lambda: len(family(pid)) == 10, "all run")
        processes = family(pid)
        os.kill(server.process.pid, number)
        assert server.process.wait(60) == (0 if number == signal.SIGTERM else -number)
        wait_until(lambda: not any(map(is_alive, processes)), "all processes have ended")
        wait_until(lambda: not list(server.folder.glob("stage-*")), "the folder is removed")


def test_it_ends_while_it_starts() -> None:
    server = stage()
    server.answers = lambda: bool(list(server.folder.glob("stage-*")))
    with running(server):
        assert server.process
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0
        wait_until(lambda: not list(server.folder.glob("stage-*")), "the folder is removed")


def test_only_who_knows_the_token_has_a_process_killed() -> None:
    server = stage()
    with running(server):
        folder = folder_of(server)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for line in [b"broker\n", b"wrong broker\n", b"\xff \xff\n", b"\n"]:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(folder / "control"))
                asking.sendall(line)
                assert asking.recv(100) == b""
        for path in ("ws/stage/", "ws/stage/devices/"):
            with pytest.raises(InvalidStatus), client(server, path, origin="http://evil.example"):
                pass
        with client(server, "ws/stage/") as panel:
            panel.send(type="hello", version=1)
            panel.send(type="join", group="room.lobby")
            assert panel.receive_until(type="error")["code"] == "forbidden"
            panel.send(type="message", message={"kill": "nobody"}, group=None)
            assert panel.receive_until(type="message")["message"] == {"killed": False}
            for wrong in [None, "kill", {"kill": 7}, {"post": "x", "commit": "no"}]:
                panel.send(type="message", message=wrong, group=None)
                assert panel.receive_until(type="error")["code"] == "invalid_message"
            assert "has ended" not in server.output()
            panel.send(type="message", message={"kill": "broker"}, group=None)
            assert panel.receive_until(type="message")["message"] == {"killed": True}
        wait_until(lambda: "broker has ended, and starts again in 3 s." in server.output(), "the broker was killed")


def test_on_postgresql_a_message_is_a_part_of_the_commit() -> None:
    database = postgres.plain()
    server = stage(
        DATABASE=database.database,
        PGHOST="127.0.0.1",
        PGPORT=str(database.server.port),
        PGUSER=postgres.USER,
        PGPASSWORD=postgres.PASSWORD,
    )
    with running(database.server, server):
        page = fetch(server.port)
        assert "Off: the broker isn't the stage's own." in page
        assert "sends a message as a part of the same transaction" in page
        with client(server, "ws/stage/") as panel:
            panel.send(type="hello", version=1)
            panel.send(type="join", group="stage")
            panel.receive_until(type="joined")
            for text, commit in (("one", True), ("two", False), ("three", True)):
                panel.send(type="message", message={"post": text, "commit": commit}, group=None)
            received = [panel.receive_until(type="message")["message"] for _ in range(5)]
        assert [each["posted"] for each in received if "posted" in each] == ["one", "three"]
        rows = [each["ended"]["rows"] for each in received if "ended" in each]
        assert rows == [1, 1, 2]


def test_whoever_opens_the_page_to_others_keeps_the_processes() -> None:
    server = stage(ALLOWED_HOSTS="127.0.0.1", CHANNEL_LAYER_URL="memory://")
    with running(server):
        page = fetch(server.port)
        assert page.count("Off: only the owner of this machine may kill its processes.") == 3
        assert not (folder_of(server) / "control").exists()
        with client(server, "ws/stage/") as panel:
            panel.send(type="hello", version=1)
            panel.send(type="message", message={"kill": "server-1"}, group=None)
            assert panel.receive_until(type="message")["message"] == {"killed": False}


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "stage.supervisor"],
            env={**os.environ, "STAGE_PORT": str(port), "PYTHONPATH": str(ROOT / "testproject")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    expected = (
        f"Port {port} of 127.0.0.1: Address already in use. End what uses it, or set STAGE_PORT to another port.\n"
    )
    assert (done.stdout, done.stderr) == ("", expected)
