"""A project with the settings of channels_redis runs when its BACKEND is changed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tests.asgi.client import client
from tests.asgi.serving import noise, serve, work
from tests.asgi.site.consumers import JOBS, KINDS
from tests.support.brokers import redis
from tests.support.brokers.server import Server, running

MOVED = "tests.asgi.moved"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[redis.Redis, ...]]:
    made = (redis.plain(), redis.plain())
    with redis.running(*made):
        yield made


@pytest.fixture(scope="module")
def processes(hosts: tuple[redis.Redis, ...]) -> Iterator[tuple[Server, ...]]:
    """Two web servers and a worker."""
    urls = " ".join(host.url for host in hosts)
    made = (serve("daphne", MOVED, urls), serve("uvicorn", MOVED, urls), work(JOBS, MOVED, urls))
    for each in made:
        each.environment = {**each.environment, "BACKEND": "django_anyio_channels.channels_redis.RedisChannelLayer"}
    with running(*made):
        yield made


def test_real_consumers_talk_over_both_hosts(hosts: tuple[redis.Redis, ...], processes: tuple[Server, ...]) -> None:
    daphne, uvicorn, worker = processes
    with ExitStack() as stack:
        clients = {
            (server.name, kind): stack.enter_context(client(server, kind))
            for server, kind in product((daphne, uvicorn), KINDS)
        }
        names = {}
        for key, each in clients.items():
            each.send(do="name")
            names[key] = each.receive()["name"]
        for number, ((_, kind), speaker) in enumerate(clients.items()):
            speaker.send(do="say", text=f"{number}")
            for each in clients.values():
                assert each.receive() == {"said": f"{number}", "by": kind}
        for sender, receiver in product(clients, clients):
            clients[sender].send(do="direct", to=names[receiver], text=f"{sender} to {receiver}")
            assert clients[receiver].receive() == {"direct": f"{sender} to {receiver}", "by": sender[1]}
        assert worker.process
        for number, each in enumerate(clients.values()):
            each.send(do="square", number=number)
            answer = each.receive()
            assert (answer["squared"], answer["process"]) == (number**2, worker.process.pid)
        # The second host's database is number 1.
        inboxes = [host.ask("PUBSUB CHANNELS", f"{tag}shop:i:*") for host, tag in zip(hosts, ("", "@1@"), strict=True)]
        assert sum(map(len, inboxes)) == 3
        assert not any(host.ask("PUBSUB CHANNELS", "*asgi:*") for host in hosts)
    assert [noise(process) for process in processes] == ["", "", ""]
