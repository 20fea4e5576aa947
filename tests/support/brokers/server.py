"""What the test servers of all brokers share: real processes on 127.0.0.1 that tests may kill, freeze and restart."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

NOBODY = 65534

# Some servers run as another user, who must be able to read what the tests write.
os.umask(0o022)

# Below the range that the kernel gives to outgoing connections. A port of that range could be taken by some client
# while its server is down, or a client that reconnects could even meet itself on it. No longer than the distance
# of a Redis Cluster's second ports, so that one node's second is never another's first.
PORTS = range(10240, 20240)


class ServerMissing(Exception):
    """A broker's program was found nowhere; the message says what to install."""


class ServerFailed(Exception):
    """A server did not start or does not answer; the message ends with what it printed."""


def find_program(variable: str, names: Sequence[str], folders: Sequence[str] = ()) -> str | None:
    """The program that the environment variable names, else the first of ``names`` on PATH or in ``folders``."""
    chosen = os.environ.get(variable)
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise ServerMissing(f"{variable} names {chosen!r}, which is no program; correct or unset it")
        return found
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", *folders])
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return None


def _own_ports() -> Iterator[int]:
    """The ports of this process, in no order, again and again. Those that work beside it have others."""
    place = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(PORTS[place :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))])
    random.SystemRandom().shuffle(ports)
    return cycle(ports)


_ports = _own_ports()


def free_port(companions: Sequence[int] = ()) -> int:
    """A port of 127.0.0.1 on which nobody listens, nor on ``port + n`` for each n of ``companions``.

    Given to one caller only: a server may be started long after its port was chosen, and clients of one that has
    gone for good may still look for it.
    """
    for port in islice(_ports, len(PORTS)):
        if all(_can_listen(port + offset) for offset in (0, *companions)):
            return port
    raise ServerFailed(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def unprivileged_user() -> int | None:
    """Whom to run a server as that refuses to run as root: None means as ourselves."""
    return NOBODY if os.geteuid() == 0 else None


def new_folder(name: str, user: int | None = None) -> Path:
    """A new temporary folder which ``user`` may write to. `Server.stop` removes it, or the end of the tests."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    ours = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == ours else None)
    if user is not None:
        os.chown(folder, user, -1)
    return folder


def wait_until(condition: Callable[[], bool], what: str, patience: float = 30.0) -> None:
    """Wait until ``condition()`` is true; OSError counts as no. Raises `ServerFailed` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    reason: object = "not yet"
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError as error:
            reason = error
        time.sleep(0.01)
    raise ServerFailed(f"{what}: not within {patience:g} s (last: {reason})")


def accepts_connections(port: int) -> Callable[[], bool]:
    """The simplest answer of a server: somebody listens on ``port``."""

    def accepts() -> bool:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True

    return accepts


@dataclass
class Server:
    """One server: a process and its children, started from ``command`` in ``folder``.

    Every verb blocks until it has happened; from an async test call it in a worker thread if something shall go on
    meanwhile. Always the same port, so that `restart` and `start` after `kill` bring it back where clients look for it.
    """

    name: str
    port: int
    command: Sequence[str]
    answers: Callable[[], bool]
    """Whether the server serves by now; may raise OSError for no."""
    folder: Path
    user: int | None = None
    """The uid to run as, see `unprivileged_user`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables added to our own."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _guard: subprocess.Popen[bytes] = field(init=False)
    """Kills the server when we end without having killed it, however we end."""

    def start(self) -> Server:
        """Start, and return when it answers. Raises `ServerFailed` with its output."""
        assert self.process is None, f"{self.name} runs already"
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                extra_groups=None if self.user is None else [],
            )
        self._guard = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'read said || { kill -9 "$1"; rm -rf "$2"; }',
                "guard",
                str(self.process.pid),
                self.folder,
            ],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self.kill)
        try:
            wait_until(self._answers, f"{self.name} answers on port {self.port}")
        except ServerFailed as error:
            self.kill()
            raise ServerFailed(f"{error}\n{self.output()}") from None
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} ended with code {self.process.returncode}")
        return self.answers()

    def kill(self) -> None:
        """``kill -9``: connections break, nothing is said or saved."""
        self._end(signal.SIGKILL)

    def shutdown(self, patience: float = 10.0) -> None:
        """End it the polite way, with ``SIGTERM``."""
        self._end(signal.SIGTERM, patience)

    def restart(self) -> None:
        """``kill -9`` and `start` again on the same port, with the files it left."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """``SIGSTOP``: the port still accepts connections, nobody answers."""
        self._signal(signal.SIGSTOP)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen as long as the context lasts, if it is not thawed or killed before."""
        self.freeze()
        try:
            yield
        finally:
            if self.running:
                self.thaw()

    def thaw(self) -> None:
        """``SIGCONT``: undo `freeze`; nothing to do for a server that does not run."""
        if self.process is not None:
            self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """The end: no process, no folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self, last: int = 4000) -> str:
        """The last bytes that the server printed, for messages."""
        printed = (self.folder / "output").read_bytes()
        return printed[-last:].decode(errors="replace")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None, f"{self.name} does not run"
        for pid in family(self.process.pid):
            _send(pid, number)

    def _end(self, number: signal.Signals, patience: float = 10.0) -> None:
        process, self.process = self.process, None
        atexit.unregister(self.kill)
        if process is None:
            return
        self._guard.communicate(b"good bye\n")
        if process.poll() is not None:
            return
        if number != signal.SIGKILL:
            for pid in family(process.pid):
                _send(pid, signal.SIGCONT)
            _send(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                pass  # then the impolite way
            else:
                return
        # Frozen, it can have no more children while they are listed.
        _send(process.pid, signal.SIGSTOP)
        killed = family(process.pid)
        for pid in killed:
            _send(pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in killed), f"{self.name} is dead")


def family(pid: int) -> list[int]:
    """A process and its descendants. PostgreSQL's make process groups of their own, so a group is not enough."""
    children: dict[int, list[int]] = {}
    for child, (_, parent) in _processes().items():
        children.setdefault(parent, []).append(child)
    family = [pid]
    for member in family:
        family.extend(children.get(member, []))
    return family


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself


def is_alive(pid: int) -> bool:
    state, _ = _processes().get(pid, ("Z", 0))
    return not state.startswith("Z")


def _processes() -> dict[int, tuple[str, int]]:
    """The state and the parent of each process. A small Linux has no `ps`, macOS no ``/proc``."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if not stats:
        command = ["ps", "-A", "-o", "pid=,state=,ppid="]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = (line.split() for line in listed.splitlines())
        return {int(pid): (state, int(parent)) for pid, state, parent in lines}
    found: dict[int, tuple[str, int]] = {}
    for stat in stats:
        try:
            # What stands before the last parenthesis is the pid and the program's name.
            state, parent, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        found[int(stat.parent.name)] = (state, int(parent))
    return found


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start the servers, one after the other, and stop them all at the end."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()
