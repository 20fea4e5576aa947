"""The demo chat over several processes: servers of two kinds and a worker, on one broker."""

from __future__ import annotations

from tests.asgi.chat import Person
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
    for number, server in enumerate((daphne, uvicorn), start=1):
        server.environment = {**server.environment, "SERVER_NAME": f"server {number}"}
    with running(broker, daphne, uvicorn, worker), client(daphne, "ws/") as first, client(uvicorn, "ws/") as second:
        ana, bob = Person(first, "Ana"), Person(second, "Bob")
        assert "Ana" in bob.people or bob.see("joined", "Ana")
        assert ana.see("joined", "Bob")
        bob.send({"type": "look"})
        assert bob.hear("worker.here")  # a message to one channel
        for speaker, name in ((ana, "Ana"), (bob, "Bob")):
            speaker.say(f"I am {name}")
            for each, via in ((ana, "server 1"), (bob, "server 2")):
                said = each.hear("room.said", name=name)
                assert (said["text"], said["server"]) == (f"I am {name}", via)
        ana.say("/factor 91", "2")
        assert bob.hear("room.asked", id="2")["text"] == "/factor 91"
        answered = bob.hear("room.answered", id="2")
        assert "7" in answered["answer"]
        assert answered["server"] == "server 2"
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
