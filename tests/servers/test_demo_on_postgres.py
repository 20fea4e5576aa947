"""The demo chat with nothing but DATABASES configured: servers and a worker, each a process, on one PostgreSQL."""

from __future__ import annotations

from tests.brokers import postgres
from tests.brokers.server import Server, running
from tests.servers.client import client
from tests.servers.conftest import DEMO
from tests.servers.serving import noise, serve, work


def on(database: postgres.Postgres, process: Server) -> Server:
    process.environment = {
        **process.environment,
        "CHANNEL_LAYER_URL": "",
        "DATABASE": database.database,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(database.server.port),
        "PGUSER": postgres.USER,
        "PGPASSWORD": postgres.PASSWORD,
    }
    return process


def test_messages_and_tasks_cross_between_processes() -> None:
    database = postgres.plain()
    daphne, uvicorn = (on(database, serve(kind, DEMO, "")) for kind in ("daphne", "uvicorn"))
    worker = on(database, work("chat-worker", DEMO, ""))
    with running(database.server, daphne, uvicorn, worker), client(daphne, "ws/") as ana, client(uvicorn, "ws/") as bob:
        ana.say(type="join", room="lobby", name="Ana")
        ana.hear_until(type="joined")
        bob.say(type="join", room="lobby", name="Bob")
        number = bob.hear_until(type="joined")["id"]
        assert ana.hear_until(type="came", id=number)["name"] == "Bob"
        assert bob.hear_until(type="here", name="Ana")  # a message to one channel
        for speaker, name in ((ana, "Ana"), (bob, "Bob")):
            speaker.say(type="say", text=f"I am {name}")
            for each in (ana, bob):
                assert each.hear_until(type="said", name=name)["text"] == f"I am {name}"
        ana.say(type="say", text="/factor 91")
        assert "7" in bob.hear_until(type="answered")["answer"]
        assert [noise(each) for each in (daphne, uvicorn, worker)] == ["", "", ""]
