"""What becomes of a test server when the tests end in a way that they did not plan."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .server import is_alive, wait_until

PROGRAM = """
import sys
from pathlib import Path
from tests.brokers.server import Server, new_folder
server = Server(
    name="sleeper", port=0, command=["sleep", "600"], answers=lambda: True, folder=new_folder("sleeper")
)
server.start()
print(server.process.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_process_that_started_it(number: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    with starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().decode().split()
        assert is_alive(int(pid))
        starter.send_signal(number)
    wait_until(lambda: not is_alive(int(pid)) and not Path(folder).exists(), "the server has ended")
