"""What README.rst claims is true, and short."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from typing import Any

import docutils.nodes
import pytest
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.configuration import factory
from tests.support.paths import ROOT

from .pages import page

README = page("README.rst")
SECTIONS = ["Why", "Install", "Quick start", "Brokers", "Migrating", "Guarantees", "Working on it", "Links"]


def test_is_short_and_has_its_order() -> None:
    assert len(README.text.splitlines()) <= 130
    titles = [section.astext().partition("\n")[0] for section in README.document.findall(docutils.nodes.section)]
    assert titles == SECTIONS
    [intro] = re.findall(r"site-begin\n\n(.*?)\n\n", README.text, re.DOTALL)
    assert len(re.findall(r"\.(?=\s|$)", intro)) == 3
    assert README.text.count("\n* **") == 6


def test_links_lead_somewhere() -> None:
    for reference in README.document.findall(docutils.nodes.reference):
        link = reference.get("refuri", "")
        assert re.fullmatch(r"https?://\S+", link) or (ROOT / link).is_file(), link


def test_the_two_commands_exist() -> None:
    assert README.code("commands") == "$ python3 testproject\n$ python3 tests"
    for command in ("testproject", "tests", "docs"):
        assert (ROOT / command / "__main__.py").is_file()
    assert "python3 tests" in (ROOT / ".ci" / "run").read_text()


def test_the_command_installs_the_installed_apps() -> None:
    first = ast.parse(README.code("apps")).body[0]
    assert isinstance(first, ast.Assign)
    apps = ast.literal_eval(first.value)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named, *others = shlex.split(README.code("install"))[5:]
    [extra] = re.findall(r"\[(\w+)\]", named)
    installed = {re.split("[<>=]", each)[0].lower() for each in (*extras[extra], *others, named.partition("[")[0])}
    assert {app.replace("_", "-") for app in apps} <= installed


def test_brokers_are_seven_and_exist() -> None:
    [table] = README.document.findall(docutils.nodes.table)
    listed = [row.findall(docutils.nodes.entry) for row in table.findall(docutils.nodes.row)]
    schemes = [next(iter(row)).astext().removesuffix("://") for row in listed]
    assert len(schemes) == 7
    assert set(schemes) <= set(factory.LAYERS)
    assert {factory.LAYERS[scheme] for scheme in schemes} == set(factory.LAYERS.values())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_consumer_sends_to_all(anyio_backend: str) -> None:
    config: dict[str, Any] = {}
    exec(README.code("apps"), config)
    layer = AnyioChannelLayer(**config["CHANNEL_LAYERS"]["default"]["CONFIG"])
    channel_layers.set("default", layer)
    consumer = README.run("consumer")["ChatConsumer"].as_asgi()
    browsers = [WebsocketCommunicator(consumer, "/") for _ in range(2)]
    for browser in browsers:
        assert (await browser.connect(20))[0]
    await browsers[0].send_json_to({"text": "Hello"})
    for browser in browsers:
        assert await browser.receive_json_from(20) == {"text": "Hello"}
        await browser.disconnect()
    await layer.close()
    del channel_layers.backends["default"]
