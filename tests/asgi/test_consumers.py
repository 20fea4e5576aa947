"""Channels' own consumers, of each kind, over this channel layer and behind each server."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product

import pytest
from websockets.exceptions import ConnectionClosed

from tests.asgi.client import Client, client
from tests.asgi.conftest import SITE
from tests.asgi.serving import noise, work
from tests.asgi.site.consumers import JOBS, KINDS, RESUMING
from tests.support.brokers.server import Server, running, wait_until


def test_a_group_of_the_class_reaches_consumers_of_every_kind(site: Server) -> None:
    with ExitStack() as stack:
        clients = {kind: stack.enter_context(client(site, kind)) for kind in KINDS}
        for each in clients.values():
            # The answer shows that the consumer has joined its groups.
            each.send(do="name")
            assert "!" in each.receive()["name"]
        for number, (kind, speaker) in enumerate(clients.items()):
            speaker.send(do="say", text=f"{number} \N{SNOWMAN} \U0001f600")
            for each in clients.values():
                assert each.receive() == {"said": f"{number} \N{SNOWMAN} \U0001f600", "by": kind}
    assert noise(site) == ""


def test_a_message_to_one_channel_reaches_its_consumer_only(site: Server) -> None:
    with ExitStack() as stack:
        clients = {kind: stack.enter_context(client(site, kind)) for kind in KINDS}
        names = {}
        for kind, each in clients.items():
            each.send(do="name")
            names[kind] = each.receive()["name"]
        for sender, receiver in product(clients, clients):
            clients[sender].send(do="direct", to=names[receiver], text=f"{sender} to {receiver}")
            assert clients[receiver].receive() == {"direct": f"{sender} to {receiver}", "by": sender}
        clients["sync"].send(do="say", text="over")
        for each in clients.values():
            assert each.receive() == {"said": "over", "by": "sync"}


def test_messages_of_one_consumer_arrive_in_order(site: Server) -> None:
    with client(site, "async") as sender, client(site, "sync-json") as receiver:
        receiver.send(do="name")
        receiver.receive()
        for number in range(50):
            sender.send(do="say", text=number)
        for each in (sender, receiver):
            assert [each.receive()["said"] for _ in range(50)] == list(range(50))


def test_a_consumer_that_left_is_out_of_its_groups(site: Server) -> None:
    with client(site, "async") as staying:
        for kind in KINDS:
            with client(site, kind) as leaving:
                leaving.send(do="say", text=f"{kind} is here")
                assert leaving.receive() == staying.receive() == {"said": f"{kind} is here", "by": kind}
            with client(site, kind) as ending:
                ending.send(do="end")
                with pytest.raises(ConnectionClosed):
                    ending.receive()
        staying.send(do="say", text="alone")
        assert staying.receive() == {"said": "alone", "by": "async"}
    assert noise(site) == ""


@pytest.mark.parametrize("closer", ["sync", "async-json"])
def test_all_consumers_of_a_group_are_closed(site: Server, closer: str) -> None:
    with ExitStack() as stack:
        clients = {kind: stack.enter_context(client(site, kind)) for kind in KINDS}
        for each in clients.values():
            each.send(do="name")
            each.receive()
        clients[closer].send(do="close")
        for each in clients.values():
            with pytest.raises(ConnectionClosed) as caught:
                each.receive()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4009
    assert noise(site) == ""


@pytest.mark.parametrize("path", RESUMING)
def test_a_browser_that_missed_messages_is_sent_away_and_its_consumer_disconnects(site: Server, path: str) -> None:
    with client(site, "async") as staying, client(site, path) as leaving:
        staying.send(do="name")
        staying.receive()
        leaving.send(do="miss")
        assert staying.receive() == {"said": 4013, "by": path.removesuffix("-resuming")}
        with pytest.raises(ConnectionClosed) as caught:
            leaving.receive()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4013
    assert noise(site) == ""


def test_a_background_worker_answers_each_consumer(site: Server, layer: str) -> None:
    with ExitStack() as stack:
        embedded = layer.startswith("memory:")
        worker = work(JOBS, SITE, layer)
        stack.enter_context(running(*([] if embedded else [worker])))
        for number, kind in enumerate(KINDS):
            with client(site, kind) as asking:
                asking.send(do="square", number=number)
                answer = asking.receive()
                assert answer["squared"] == number**2
                process = site.process if embedded else worker.process
                assert process
                assert answer["process"] == process.pid
    assert noise(site) == ""


def test_a_server_stops_cleanly_with_connections_open(own_site: Server, kind: str, stop: int) -> None:
    process = own_site.process
    assert process
    with client(own_site, "async") as first, client(own_site, "sync-json") as second:
        first.send(do="say", text="before")
        assert second.receive() == first.receive() == {"said": "before", "by": "async"}
        second.send(do="square", number=12)
        assert second.receive()["squared"] == 144
        wait_until(lambda: _settled(first), "the server can stop")
        process.send_signal(stop)
        for each in (first, second):
            with pytest.raises(ConnectionClosed):
                each.receive()
        # Uvicorn ends by the signal that it was sent, once it has cleaned up.
        assert process.wait(20) in ({0, -stop} if kind == "uvicorn" else {0})
    assert noise(own_site) == ""


def _settled(someone: Client) -> bool:
    someone.send(do="settled")
    settled: bool = someone.receive()["settled"]
    return settled
