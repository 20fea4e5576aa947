"""Somebody who does what the tutorial says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import docutils.nodes

from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, accepts_connections, free_port, new_folder

from .pages import page

TUTORIAL = page("docs/tutorial.rst")
PROGRAMS = Path(sys.executable).parent


class Reader:
    """Does what the tutorial says, section by section, in an empty folder."""

    def __init__(self, folder: Path, broker: brokers.Redis) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {
            # The one difference between a reader's machine and this one: where Redis is.
            "CHANNEL_LAYER_URL": brokers.with_streams(broker.url),
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),
            "PYTHONPATH": str(folder),
            "PYTHONWARNINGS": "default",
        }
        self.servers: list[Server] = []
        self.done: list[str] = []

    def follow(self, title: str, *, commands: bool = True) -> list[Server]:
        """Write the files and run the commands of a section; servers are returned, not started yet."""
        [section] = [each for each in TUTORIAL.document.findall(docutils.nodes.section) if title_of(each) == title]
        self.done.append(title)
        made: list[Server] = []
        for block in section.findall(docutils.nodes.literal_block):
            if block["caption"]:
                self.write(block["caption"], block.astext())
            elif commands:
                made += [server for line in block.astext().splitlines() for server in self.run(line.removeprefix("$ "))]
        return made

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.stop()

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text() + "\n\n" if name == "mysite/settings.py" else ""  # "Add this at the end of"
        file.write_text(f"{before}{text}\n")

    def run(self, line: str) -> Iterator[Server]:
        words = shlex.split(line)
        if words[:4] == ["python3", "-m", "pip", "install"]:
            for requirement in words[4:]:
                assert metadata.version(re.split(r"\[", requirement)[0])
        elif words[:3] == ["python3", "manage.py", "runserver"]:
            yield self.server(sys.executable, *words[1:], "--noreload", f"127.0.0.1:{self.port}")
        elif words[0] == "uvicorn":
            yield self.server(*words, "--port", str(self.port))
        elif words[0] not in ("source", "sudo") and "venv" not in words:
            self.call(*words)

    def call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(PROGRAMS / program), *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def server(self, *command: str) -> Server:
        """A server of the project, not started yet. `stop` ends it."""
        folder = new_folder("tutorial")  # of its output
        started = ["env", "-C", str(self.folder), *command]
        answers = accepts_connections(self.port)
        made = Server("tutorial", self.port, started, answers, folder, environment=self.environment)
        self.servers.append(made)
        return made


def sections() -> list[str]:
    """The titles of the tutorial's sections."""
    return [title_of(each) for each in TUTORIAL.document.findall(docutils.nodes.section)]


def title_of(section: docutils.nodes.section) -> str:
    return next(iter(section.findall(docutils.nodes.title))).astext()
