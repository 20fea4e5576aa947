"""ASGI servers and background workers in processes of their own, strict about warnings."""

from __future__ import annotations

import os
import re
import sys

from tests.support.brokers.server import Server, accepts_connections, free_port, new_folder
from tests.support.paths import ROOT

COMMANDS = {
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "{port}", "{asgi}:application"],
    "runserver": ["django", "runserver", "--noreload", "127.0.0.1:{port}"],
    "uvicorn": ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "{asgi}:application"],
}

MORE_COMMANDS = {
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "{asgi}:application"],
    "granian": ["granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "{asgi}:application"],
}
"""Servers for what depends on how they speak HTTP."""

WARNINGS = [
    "error",
    # asgiref's own StatelessServer, under runworker, hands a plain lambda to Channels' own SyncConsumer.
    "ignore:async_to_sync was passed a non-async-marked callable:UserWarning:asgiref.sync",
]

NOISE = re.compile(r"Traceback|Warning|Error|ERROR|CRITICAL|Exception|Fatal|never awaited|was destroyed")


def serve(kind: str, package: str, layer: str) -> Server:
    """The Django project ``package`` behind a server of this kind, not started yet.

    The package has the modules ``settings`` and ``asgi``; ``layer`` is the URL of the channel layer.
    """
    port = free_port()
    arguments = [each.format(port=port, asgi=f"{package}.asgi") for each in (COMMANDS | MORE_COMMANDS)[kind]]
    return Server(
        name=kind,
        port=port,
        command=[sys.executable, "-m", *arguments],
        answers=accepts_connections(port),
        folder=new_folder(kind),
        environment=environment(package, layer),
    )


def work(channel: str, package: str, layer: str) -> Server:
    """``runworker`` for one normal channel, not started yet."""
    return Server(
        name="runworker",
        port=0,
        command=[sys.executable, "-m", "django", "runworker", channel],
        answers=lambda: True,
        folder=new_folder("runworker"),
        environment=environment(package, layer),
    )


def environment(package: str, layer: str) -> dict[str, str]:
    """What a project's processes find in their environment besides ours."""
    inherited = os.environ.get("PYTHONPATH")
    path = [str(ROOT), str(ROOT / "testproject"), *([inherited] if inherited else [])]
    return {
        "CHANNEL_LAYER_URL": layer,
        "DJANGO_SETTINGS_MODULE": f"{package}.settings",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDEVMODE": "1",
        "PYTHONWARNINGS": ",".join(WARNINGS),
    }


def noise(server: Server) -> str:
    """Nothing, if the server is clean; all that it printed, if there is a complaint in it."""
    output = server.output(last=1_000_000)
    return output if NOISE.search(output) else ""
