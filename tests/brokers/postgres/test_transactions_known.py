"""What docs/brokers/postgresql.rst says one should know of sending in a transaction, in a Django project of its own."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.db import connections, transaction

from django_anyio_channels import AnyioChannelLayer
from tests.contract.processes import n, receive, soon
from tests.support.brokers import postgres
from tests.support.brokers.server import running

from .test_projects import run
from .test_transactions import entry_of


def test_a_project_finds_what_the_page_says() -> None:
    made = postgres.plain("max_prepared_transactions=1")
    with running(made.server):
        assert "Ran 9 tests" in run(made, "django", "test", "tests.brokers.postgres.project.documented")


def test_djangos_connection_may_go_through_a_pooler(
    own_server: postgres.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "ready", True)  # Django warns of whoever uses the database too early
    with postgres.pgbouncer(own_server, "transaction") as pooler:
        pooled = {**entry_of(own_server), "PORT": str(pooler.server.port)}
        monkeypatch.setitem(connections.settings, "pooled", pooled)
        layer: Any = AnyioChannelLayer(database="pooled", options={"listen_url": own_server.url})

        async def converse() -> None:
            channel = await soon(layer.new_channel())
            await soon(layer.group_add("room", channel))
            await soon(_post(layer))
            assert await receive(layer, channel, 1) == [n(2)]
            assert await soon(layer.receive("jobs")) == n(3)
            await layer.close()

        async_to_sync(converse)()
        connections["pooled"].close()
        del connections["pooled"]


async def _post(layer: Any) -> None:
    class Nevermind(Exception):
        """Rolls back."""

    def post() -> None:
        news = layer.in_transaction()
        with pytest.raises(Nevermind), transaction.atomic(using="pooled"):
            news.group_send_sync("room", n(1))
            raise Nevermind
        with transaction.atomic(using="pooled"):
            news.group_send_sync("room", n(2))
            news.send_sync("jobs", n(3))

    await sync_to_async(post)()
