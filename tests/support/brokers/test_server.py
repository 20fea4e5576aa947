"""What becomes of a test server when the tests end in a way that they did not plan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

from .debian import unpack
from .server import PORTS, ServerMissing, free_port, is_alive, wait_until

PROGRAM = """
import sys
from pathlib import Path
from tests.support.brokers.server import Server, new_folder

server = Server(
    name="sleeper", port=0, command=["sleep", "600"], answers=lambda: True, folder=new_folder("sleeper")
)
server.start()
print(server.process.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_started_it(number: signal.Signals) -> None:
    starter = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().decode().split()
        assert is_alive(int(pid))
        starter.send_signal(number)
    wait_until(lambda: not is_alive(int(pid)) and not Path(folder).exists(), "the server has ended")


def test_no_two_servers_are_given_the_same_port() -> None:
    given = [free_port() for _ in range(200)] + [free_port(companions=[10000]) for _ in range(200)]
    assert len(set(given)) == 400
    assert not {port + 10000 for port in given} & set(PORTS)


def test_processes_that_test_side_by_side_have_ports_of_their_own() -> None:
    program = "from tests.support.brokers.server import free_port; print(*(free_port() for _ in range(500)))"
    given = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "3"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for worker in ("gw0", "gw1", "gw2")
    ]
    assert len({port for ports in given for port in ports}) == 1500


def test_a_server_of_another_user_may_read_what_the_tests_write(tmp_path: Path) -> None:
    program = "import pathlib, tests.support.brokers.server; pathlib.Path({!r}).write_text('settings')"
    file = tmp_path / "file"
    subprocess.run([sys.executable, "-c", program.format(str(file))], cwd=ROOT, umask=0o077, check=True)
    assert file.stat().st_mode & 0o044


def test_a_system_without_apt_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"^install mosquitto .*no apt-get"):
        unpack("usr/sbin/mosquitto", ["mosquitto"])
