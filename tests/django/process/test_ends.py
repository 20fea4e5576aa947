"""Programs that end by SIGTERM, or as children. Another process takes over what they put into normal channels of MQTT.

MQTT's queues are in the memory of a process: it loses what it does not hand off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import anyio
import anyio.to_thread
import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.process import ends, event_loops
from django_anyio_channels.django.process.background_loop import BackgroundLoop
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.brokers.server import free_port
from tests.support.layers import TIME_LIMIT, anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio

BEGINNING = """
import asyncio, concurrent.futures, multiprocessing, os, sys, threading, time
from django_anyio_channels import AnyioChannelLayer

layer = AnyioChannelLayer(url=os.environ["CHANNEL_LAYER_URL"])
MESSAGE = {"type": "job"}

def put():
    layer.send_sync("jobs", MESSAGE)

async def app(scope, receive, send):
    if scope["type"] == "http":
        await layer.send("jobs", MESSAGE)
        await layer.new_channel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""

PROGRAMS = {
    "nothing handles SIGTERM": """
        async def main():
            await layer.new_channel()
            await layer.send("jobs", MESSAGE)
            print("ready", flush=True)
            await asyncio.Future()

        asyncio.run(main())
        """,
    "without an event loop": """
        put()
        print("ready", flush=True)
        threading.Event().wait()
        """,
    "a forked child": """
        child = multiprocessing.get_context("fork").Process(target=put)
        child.start()
        child.join()
        print("ready", flush=True)
        time.sleep(60)
        """,
    "a pool of processes": """
        if __name__ == "__main__":
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(put).result()
            print("ready", flush=True)
            time.sleep(60)
        """,
}
UVICORN = ["uvicorn", "--lifespan", "off", "--port", "{port}"]
SERVERS = {
    "uvicorn": [*UVICORN, "--loop", "asyncio"],
    "uvicorn on uvloop": [*UVICORN, "--loop", "uvloop"],
    "workers of uvicorn": [*UVICORN, "--workers", "2"],
    "daphne": ["daphne", "-p", "{port}"],
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    one = mosquitto.mosquitto()
    with mosquitto.running(one):
        yield one


@pytest.fixture
async def peer(broker: Mosquitto) -> AsyncIterator[AnyioChannelLayer]:
    """The process that stays."""
    layer = AnyioChannelLayer(url=broker.url)
    with anyio.fail_after(TIME_LIMIT):
        await layer.new_channel()
        yield layer
        await layer.close()


def end(program: list[str], broker: Mosquitto, folder: Path, wait: Callable[[Any], None]) -> int:
    """Start a program, end it by SIGTERM after ``wait`` has returned, and return its exit code."""
    path = os.pathsep.join([*sys.path, str(folder)])
    environment = {**os.environ, "CHANNEL_LAYER_URL": broker.url, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, *program], env=environment, stdout=subprocess.PIPE, text=True) as process:
        wait(process.stdout)
        process.terminate()
        return process.wait(TIME_LIMIT)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
async def test_an_orderly_end_hands_the_queues_off(
    program: str, broker: Mosquitto, peer: AnyioChannelLayer, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(BEGINNING + textwrap.dedent(program))

    def is_ready(output: Any) -> None:
        assert output.readline() == "ready\n"

    command = [str(tmp_path / "program.py")]
    assert await anyio.to_thread.run_sync(end, command, broker, tmp_path, is_ready) == -signal.SIGTERM
    assert await peer.receive("jobs") == {"type": "job"}


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
async def test_the_end_of_a_server_hands_the_queues_off(
    server: list[str], broker: Mosquitto, peer: AnyioChannelLayer, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(BEGINNING)
    port = free_port()

    def visit(_: object) -> None:
        deadline = time.monotonic() + TIME_LIMIT
        while True:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/", timeout=TIME_LIMIT):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    command = ["-m", *[each.format(port=port) for each in server], "program:app"]
    assert await anyio.to_thread.run_sync(end, command, broker, tmp_path, visit) in (0, -signal.SIGTERM)
    assert await peer.receive("jobs") == {"type": "job"}


# ---- in this process ---------------------------------------------------------------------------------------------


class Server:
    """Has the handler of uvicorn's."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def handle_exit(self, number: int, frame: object) -> None:
        self.signals.append(number)


Server.__module__ = "uvicorn.server"


@pytest.fixture
def sigterm() -> Iterator[None]:
    """SIGTERM as a new process has it."""
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, former)


@pytest.mark.usefixtures("sigterm")
def test_what_uvicorn_raises_again_waits() -> None:
    server, again = Server(), Server()
    signal.signal(signal.SIGTERM, server.handle_exit)
    ends.watch()
    signal.raise_signal(signal.SIGTERM)
    assert server.signals == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, again.handle_exit)  # uvicorn restores what it found
    signal.raise_signal(signal.SIGTERM)
    assert not again.signals
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    assert again.signals == [signal.SIGTERM]


@pytest.mark.usefixtures("sigterm")
def test_without_a_handler_the_process_ends_when_it_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    ended = threading.Event()

    def exit_(code: int) -> None:
        done.append(code)
        ended.set()

    monkeypatch.setattr("os.kill", lambda *arguments: done.append(arguments))
    monkeypatch.setattr("os._exit", exit_)
    monkeypatch.setattr(ends, "_closers", [lambda: done.append("closed")])
    ends.watch()
    signal.raise_signal(signal.SIGTERM)
    assert ended.wait(TIME_LIMIT)
    assert done == ["closed", (os.getpid(), signal.SIGTERM), 143]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("sigterm")
def test_without_another_thread_the_process_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("os.kill", lambda *arguments: done.append(arguments))
    monkeypatch.setattr("os._exit", done.append)
    monkeypatch.setattr("threading.Thread.start", start)
    ends.watch()
    signal.raise_signal(signal.SIGTERM)
    assert done == [(os.getpid(), signal.SIGTERM), 143]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_resource_that_does_not_close_keeps_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loops, "background", BackgroundLoop())
    closed: list[str] = []

    @asynccontextmanager
    async def resource(name: str) -> AsyncIterator[str]:
        try:
            yield name
        finally:
            closed.append(name)

    stuck, other = (event_loops.LoopLocal(partial(resource, name)) for name in ("stuck", "other"))
    await stuck.get_or_open()
    await other.get_or_open()
    monkeypatch.setattr(stuck, "begin_to_close", lambda: 1 / 0)
    await anyio.to_thread.run_sync(event_loops.close_everything)
    assert "other" in closed
    await stuck.close_current()


@pytest.mark.usefixtures("sigterm")
def test_a_program_that_handles_sigterm_is_left_alone() -> None:
    def handle(*_: object) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, handle)
    ends.watch()
    assert signal.getsignal(signal.SIGTERM) is handle


@pytest.mark.usefixtures("sigterm")
def test_only_the_main_thread_handles_signals() -> None:
    thread = threading.Thread(target=ends.watch)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def ignore(*_: object) -> None:
    """mod_wsgi's ``signal.signal``."""


def refuse(*_: object) -> None:
    raise ValueError("signal only works in main thread of the main interpreter")


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize("answer", [ignore, refuse])
def test_a_server_that_lets_nobody_handle_signals_is_asked_once(
    answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def embedded(*arguments: object) -> None:
        calls.append(arguments)
        answer()

    monkeypatch.setattr(ends, "_may_handle_signals", True)
    monkeypatch.setattr("signal.signal", embedded)
    ends.watch()
    ends.watch()
    monkeypatch.undo()
    assert len(calls) == 1


@pytest.mark.usefixtures("sigterm")
def test_the_children_of_other_libraries_close_as_these_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's pool has none of multiprocessing's finalizers."""
    done: list[str] = []
    registered: list[Any] = []

    def connect(receiver: Any, **options: Any) -> None:
        registered.append(partial(receiver, sender=None, pid=1, exitcode=0))

    monkeypatch.setitem(
        sys.modules, "celery.signals", SimpleNamespace(worker_process_shutdown=SimpleNamespace(connect=connect))
    )
    monkeypatch.setattr(ends, "parent_process", lambda: "a process")
    monkeypatch.setattr("multiprocessing.util.Finalize", lambda *_, exitpriority: registered.append(_[1]))
    monkeypatch.setattr(ends, "_child_pid", 0)
    monkeypatch.setattr(ends, "_closers", [lambda: done.append("closed")])
    for _ in range(2):
        ends.watch()
    for call in registered:
        call()
    assert done == ["closed"] * 2
