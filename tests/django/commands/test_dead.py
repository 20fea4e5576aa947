"""``channels dead``: dead letters shown, sent again and removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from django_anyio_channels import AnyioChannelLayer
from tests.support.brokers import postgres, redis
from tests.support.brokers.server import running

from .conftest import Site, call, project, refused, running_site


@pytest.fixture(scope="module", params=["streams", "postgres"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """A URL and the options that it needs for a history."""
    if request.param == "streams":
        valkey = redis.plain("valkey")
        with running(valkey.server):
            yield redis.with_streams(valkey.url), {}
    else:
        made = postgres.plain()
        with running(made.server):
            yield made.url, {"history_length": 100}


@pytest.fixture
def config(broker: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    url, options = broker
    options = {**options, "redeliver_after": 0.05, "deliver_at_most": 1}
    return {"url": url, "prefix": uuid4().hex, "acknowledged": ["jobs", "mail.*"], "options": options}


def letter(number: int) -> dict[str, Any]:
    return {"type": "job", "n": number}


@pytest.fixture
def site(config: dict[str, Any]) -> Iterator[Site]:
    with project(default=config), running_site(**config) as running:

        async def send(layer: AnyioChannelLayer) -> None:
            for number in range(3):
                await layer.group_send("jobs.dead", letter(number))
            await layer.group_send("walking.dead", {"type": "no.letter"})

        running.run(send)
        yield running


def shown(*words: str) -> list[Any]:
    return [json.loads(line) for line in call("dead", "show", "--json", *words).splitlines()]


def test_a_job_that_nobody_acknowledges_is_shown(site: Site) -> None:
    async def ignore(layer: AnyioChannelLayer) -> None:
        await layer.send("mail.welcome", letter(7))
        await layer.receive("mail.welcome")  # and never acknowledged
        receiving = asyncio.ensure_future(layer.receive("mail.welcome"))
        while not await layer.dead_letters() or "mail.welcome" not in await layer.dead_letters():
            await asyncio.sleep(0.01)
        receiving.cancel()
        await asyncio.wait([receiving])

    site.run(ignore)
    assert [(each["channel"], each["message"]["n"]) for each in shown()] == [
        *(("jobs", number) for number in range(3)),
        ("mail.welcome", 7),
    ]
    assert [each["message"]["n"] for each in shown("--channel", "mail.welcome")] == [7]
    position = shown("--channel", "mail.welcome")[0]["position"]
    assert call("dead", "show", "--channel", "mail.welcome") == f'mail.welcome  {position}\n{{"type": "job", "n": 7}}\n'
    assert call("dead", "show", "--channel", "mail.other") == "No dead letters.\n"
    found = json.loads(call("info", "--json"))["default"]
    assert found["dead_letters"] == {"jobs": 3, "mail.welcome": 1}
    assert "mail.welcome  1" in call("info")


def test_one_is_sent_again(site: Site) -> None:
    position = shown()[1]["position"]
    assert call("dead", "retry", "jobs", "--position", position) == "1 dead letters were sent to jobs again.\n"
    assert [each["message"]["n"] for each in shown()] == [0, 2]
    assert site.run(lambda layer: layer.receive("jobs")) == letter(1)


def test_all_are_dropped(site: Site) -> None:
    result = json.loads(call("dead", "drop", "jobs", "--all", "--json"))
    assert result == {"channel": "jobs", "count": 3}
    assert shown() == []
    assert site.run(lambda layer: layer.remove_dead_letters("jobs", ["no position"])) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "the following arguments are required: action"),
        (("retry",), "the following arguments are required: channel"),
        (("drop", "jobs"), "one of the arguments --position --all is required"),
        (("drop", "jobs", "--position", "x", "--all"), "not allowed with argument"),
        (("retry", "jobs", "--position", "y", "--position", "x"), "jobs has no dead letter at x, y"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(site: Site, words: tuple[str, ...], reason: str) -> None:
    assert reason in refused("dead", *words)[0]
    assert len(shown()) == 3


@pytest.mark.parametrize("action", ["show", "retry"])
def test_other_brokers_have_none(action: str) -> None:
    with project(default={}):
        words = () if action == "show" else ("jobs", "--all")
        assert "InMemoryChannelLayer cannot list dead letters" in refused("dead", action, *words)[0]
