"""``close_on``: what users do in one process closes their WebSockets in another one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator
from django.apps import apps

from django_anyio_channels import AnyioChannelLayer, UserMixin
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.settings import ConfigError
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

SECONDS = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Consumer(UserMixin, AsyncWebsocketConsumer):
    async def here(self, message: dict[str, Any]) -> None:
        await self.send(text_data="here")


class Project:
    """The other process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def do(self, command: str, name: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} {name}\n")
        self._process.stdin.flush()
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), SECONDS)
        return json.loads(line)


@pytest.fixture(scope="module")
def server() -> Iterator[brokers.Redis]:
    made = brokers.plain()
    with brokers.running(made):
        yield made


@pytest.fixture
def project(server: brokers.Redis, measured_programs: None, tmp_path: Path) -> Iterator[Project]:
    environment = {
        **os.environ,
        "CHANNEL_LAYER_URL": server.url,
        "DATABASE": str(tmp_path / "users"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }
    command = [sys.executable, "-m", "tests.django.auth_project"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Project(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(SECONDS) == 0


@pytest.fixture
async def layer(server: brokers.Redis) -> AsyncIterator[AnyioChannelLayer]:
    made = AnyioChannelLayer(url=server.url, prefix="auth")
    before = channel_layers.set("default", made)
    yield made
    channel_layers.set("default", cast(BaseChannelLayer, before))
    await made.close()


async def connected(login: dict[str, Any]) -> WebsocketCommunicator:
    """A window of whoever has logged in."""
    browser = WebsocketCommunicator(Consumer.as_asgi(), "/")
    scope: Any = browser.scope
    scope["user"] = SimpleNamespace(pk=login["pk"], is_authenticated=True, get_session_auth_hash=lambda: login["hash"])
    scope["session"] = SimpleNamespace(session_key=login["session"])
    assert await browser.connect(timeout=SECONDS) == (True, None)
    return browser


async def test_what_users_do_closes_their_websockets(layer: AnyioChannelLayer, project: Project) -> None:
    for name in ("ana", "bob"):
        await project.do("create", name)
    bob = await connected(await project.do("login", "bob"))
    logins = {}
    for logout in ("logout", "alogout"):
        first, second = [await connected(await project.do("login", "ana")) for _ in range(2)]
        await project.do(logout, "ana")
        assert await second.receive_output(SECONDS) == {"type": "websocket.close", "code": 4401}
        logins[first] = await project.do("login", "ana")
    for command in ("save", "change_password_in_vain", "log_nobody_out"):
        await project.do(command, "ana")
    await layer.user_send(logins[first]["pk"], {"type": "here"})
    for browser in logins:
        assert await browser.receive_from(SECONDS) == "here"
    await project.do("change_password", "ana")
    for browser in logins:
        assert await browser.receive_output(SECONDS) == {"type": "websocket.close", "code": 4401}
    await layer.user_send(await pk_of(project, "bob"), {"type": "here"})
    assert await bob.receive_from(SECONDS) == "here"
    await project.do("deactivate", "bob")
    assert await bob.receive_output(SECONDS) == {"type": "websocket.close", "code": 4401}
    await project.do("create", "eve")
    eve = await connected(await project.do("login", "eve"))
    await project.do("delete", "eve")
    assert await eve.receive_output(SECONDS) == {"type": "websocket.close", "code": 4401}


async def pk_of(project: Project, name: str) -> int:
    return int((await project.do("login", name))["pk"])


async def test_a_broker_that_is_down_keeps_nobody_logged_in(project: Project, server: brokers.Redis) -> None:
    await project.do("create", "ana")
    await project.do("login", "ana")
    server.server.kill()
    try:
        assert await project.do("logout", "ana") is None
    finally:
        server.server.start()


def test_without_the_app_nothing_would_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_config({"close_on": ["logout"]}).close_on == ("logout",)
    monkeypatch.setattr(apps, "apps_ready", True)
    with pytest.raises(ConfigError, match="Add 'django_anyio_channels' to INSTALLED_APPS, or remove 'close_on'"):
        read_config({"close_on": ["logout"]})
    assert read_config({}).close_on == ()


@pytest.mark.parametrize("wrong", ["logout", ["log out"], None, [1], {"logout": True}])
def test_close_on_is_a_list_of_known_events(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="a list of 'logout', 'password_changed', 'deactivated'"):
        read_config({"close_on": wrong})
