"""The demo chat over several processes: servers of two kinds and a worker, on one broker."""

from __future__ import annotations

from tests.asgi.client import client
from tests.asgi.conftest import DEMO
from tests.asgi.serving import noise, serve, work
from tests.support.brokers import mosquitto, postgres
from tests.support.brokers.server import Server, running


def processes(layer: str, **environment: str) -> tuple[Server, Server, Server]:
    """Two servers and a worker, not started yet; ``layer`` is the URL of the channel layer."""
    made = serve("daphne", DEMO, layer), serve("uvicorn", DEMO, layer), work("chat-worker", DEMO, layer)
    for each in made:
        each.environment = {**each.environment, **environment}
    return made


def check_that_messages_and_tasks_cross(broker: Server, daphne: Server, uvicorn: Server, worker: Server) -> None:
    with running(broker, daphne, uvicorn, worker), client(daphne, "ws/") as ana, client(uvicorn, "ws/") as bob:
        ana.send(type="join", room="lobby", name="Ana")
        ana.receive_until(type="joined")
        bob.send(type="join", room="lobby", name="Bob")
        here = bob.receive_until(type="joined")["people"]
        assert "Ana" in here or bob.receive_until(type="came", name="Ana")
        assert ana.receive_until(type="came", name="Bob")
        bob.send(type="here")
        assert bob.receive_until(type="here")  # a message to one channel
        for speaker, name in ((ana, "Ana"), (bob, "Bob")):
            speaker.send(type="say", text=f"I am {name}")
            for each in (ana, bob):
                assert each.receive_until(type="said", name=name)["text"] == f"I am {name}"
        ana.send(type="say", text="/factor 91")
        assert "7" in bob.receive_until(type="answered")["answer"]
        assert [noise(each) for each in (daphne, uvicorn, worker)] == ["", "", ""]


def test_postgresql_with_nothing_but_databases_configured() -> None:
    database = postgres.plain()
    chat = processes(
        "",
        DATABASE=database.database,
        PGHOST="127.0.0.1",
        PGPORT=str(database.server.port),
        PGUSER=postgres.USER,
        PGPASSWORD=postgres.PASSWORD,
    )
    check_that_messages_and_tasks_cross(database.server, *chat)


def test_mosquitto_with_a_password() -> None:
    broker = mosquitto.protected()
    check_that_messages_and_tasks_cross(broker.server, *processes(broker.url))
