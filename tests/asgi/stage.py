"""The stage of the demo: ``python3 testproject`` in the environment of the tests."""

from __future__ import annotations

import sys
from html import unescape
from urllib.request import ProxyHandler, build_opener

from tests.asgi.serving import WARNINGS
from tests.support.brokers.mosquitto import find_mosquitto
from tests.support.brokers.server import Server, free_port, new_folder
from tests.support.paths import ROOT

FOREIGN = ["CHANNEL_LAYER_URL", "DATABASE", "ALLOWED_HOSTS", "VALKEY_SERVER", "COVERAGE_PROCESS_CONFIG"]
"""Variables that the stage must not take over. Its many processes reach no line that others don't, and are killed."""


def stage(*, devices: bool = False, **environment: str) -> Server:
    """The stage, not started yet; its temporary folder is in the server's. With or without a mosquitto."""
    port, folder = free_port(), new_folder("stage")
    unset = [f"--unset={name}" for name in FOREIGN if name not in environment]
    mosquitto = find_mosquitto() if devices else None
    return Server(
        name="stage",
        port=port,
        command=["env", *unset, sys.executable, "-m", "stage.supervisor"],
        answers=lambda: fetch(port).startswith("<!doctype html>"),
        folder=folder,
        environment={
            "STAGE_PORT": str(port),
            "TMPDIR": str(folder),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'testproject'}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDEVMODE": "1",
            "PYTHONWARNINGS": ",".join(WARNINGS),
            "MOSQUITTO": mosquitto.program if mosquitto else "there-is-none",
            **(mosquitto.environment if mosquitto else {}),
            **environment,
        },
    )


def fetch(port: int) -> str:
    """The page of a room."""
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/room/lobby/", timeout=20) as answer:
        return unescape(answer.read().decode())
