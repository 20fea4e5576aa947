"""docs/guides/command-line.rst: its commands run, its table has every subcommand, its views answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
from collections.abc import Iterator

import pytest
from django.test import RequestFactory, override_settings

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.management.commands.channels import Command
from tests.django.commands.conftest import OURS, Site, call, project, running_site
from tests.support.brokers import redis as brokers

from .pages import page

PAGE = page("docs/guides/command-line.rst")
PREFIX = "$ python3 manage.py channels "
COMMANDS = [
    line.removeprefix(PREFIX)
    for block in PAGE.blocks
    for line in block.astext().splitlines()
    if line.startswith(PREFIX)
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A project with dead letters, and another process."""
    server = brokers.plain("valkey")
    with brokers.running(server):
        config = {"url": brokers.with_streams(server.url), "acknowledged": ["thumbnails", "mail.*"]}
        with project(default=config), running_site(**config) as running:

            async def fill(layer: AnyioChannelLayer) -> None:
                for group in ("room", "thumbnails.dead", "mail.welcome.dead"):
                    await layer.group_send(group, {"type": "x"})

            running.run(fill)
            yield running


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line: str, site: Site) -> None:
    words = shlex.split(line)
    if words[0] in ("top", "listen"):
        words += ["--count", "1"]
    if words[0] == "top":
        words += ["--interval", "0.05"]
    if words[0] == "listen" and "--last" not in words:
        words[-2:] = ["--timeout", "0.05"]
    if "warning" in words:
        words[words.index("warning")] = "error"  # the server of the tests keeps no log on disk
    call(*words)


def test_every_subcommand_is_in_the_table_and_on_the_page() -> None:
    parser = Command().create_parser("manage.py", "channels")
    [action] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    assert set(PAGE.rows("subcommands")) == set(action.choices)
    assert set(action.choices) - {line.split()[0] for line in COMMANDS} == {"flush"}


def test_the_view_answers() -> None:
    health = PAGE.run("view")["health"]
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": OURS}}):
        response = asyncio.run(health(RequestFactory().get("/")))
    assert response.status_code == 200
    assert json.loads(response.content)["channels"] == "up"


def test_the_health_check_is_made() -> None:
    [pattern] = PAGE.run("urls")["urlpatterns"]
    view = pattern.callback.view_class(**pattern.callback.view_initkwargs)
    check = list(view.get_checks())[1]
    assert repr(check) == "ChannelLayerHealthCheck(alias='default')"
