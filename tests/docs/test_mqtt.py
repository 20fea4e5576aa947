"""What docs/brokers/mqtt.rst says is what the sources do, and what mosquitto takes."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from typing import Any

import anyio
import docutils.nodes
import pytest
from channels.layers import channel_layers

from django_anyio_channels import AnyioChannelLayer, MQTTChannelLayer
from django_anyio_channels.brokers.mqtt.address import MQTTOptions
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.brokers.redis import make_certificates
from tests.support.brokers.server import new_folder
from tests.support.paths import ROOT

from .test_readme import parsed

PAGE = parsed((ROOT / "docs" / "brokers" / "mqtt.rst").read_text())
BLOCKS = list(PAGE.findall(docutils.nodes.literal_block))
PYTHON = [block for block in BLOCKS if "python" in block["classes"]]


def text(name: str) -> str:
    [block] = [each for each in BLOCKS if name in each["classes"]]
    return block.astext()


def rows() -> dict[str, str]:
    """The options of the table of settings, and their defaults."""
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "own" in table["classes"]]
    [body] = table.findall(docutils.nodes.tbody)
    cells = [[cell.astext() for cell in row.findall(docutils.nodes.entry)] for row in body.findall(docutils.nodes.row)]
    return {option: default for options, default, _ in cells for option in options.split()}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_python_compiles(block: docutils.nodes.literal_block) -> None:
    assert ast.parse(block.astext()).body


def test_every_optionis_documented_with_its_default() -> None:
    parameters = inspect.signature(MQTTChannelLayer).parameters.values()
    options = {each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY} - {"bridge"}
    assert rows().keys() == options
    defaults = {field.name: str(field.default) for field in fields(MQTTOptions) if field.default not in (None, "")}
    assert {option: default for option, default in rows().items() if default} == {
        option: default for option, default in defaults.items() if option not in ("host", "port")
    }


def mosquitto_as_documented() -> Mosquitto:
    """The broker of the page, in folders and on a port of the test; its users have the password that tests use."""
    folder = new_folder("mosquitto")
    make_certificates(folder)
    lines = text("mosquitto").replace("/etc/mosquitto", str(folder)).replace("/var/lib/mosquitto/", f"{folder}/")
    (folder / "acl").write_text(text("acl") + "\n")
    (folder / "acl").chmod(0o600)
    mosquitto.make_passwords(folder, "django")
    listener = [line for line in lines.splitlines() if line.split()[:1] and line.split()[0] not in ("#", "listener")]
    secret = mosquitto.PASSWORD.replace(" ", "%20")
    return mosquitto.mosquitto(
        listener=listener, url=f"mqtts://django:{secret}@127.0.0.1:{{port}}/?ca_file={folder}/ca.crt", generous=False
    )


def example(name: str) -> Any:
    """What the one example that defines a name makes of it."""
    [block] = [each for each in PYTHON if name in each.astext() and "CHANNEL_LAYERS" not in each.astext()]
    namespace: dict[str, Any] = {}
    exec(block.astext(), namespace)
    return namespace[name]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_house_of_the_page_lives_on_the_broker_of_the_page(anyio_backend: str) -> None:
    from channels.testing import WebsocketCommunicator

    broker = mosquitto_as_documented()
    with mosquitto.running(broker), anyio.fail_after(30):
        layer = AnyioChannelLayer(**{**example("CONFIG"), "url": broker.url})
        device = MQTTChannelLayer(broker.url)
        await device.connect()
        await device.subscribe("home/hall/lamp")
        channel_layers.set("default", layer)
        browser = WebsocketCommunicator(example("House").as_asgi(), "/")
        assert (await browser.connect(20))[0]
        await device.publish("sensors/7/value", b'{"celsius": 21.5}')
        assert await browser.receive_json_from(20) == {"sensor": "7", "value": {"celsius": 21.5}}
        await browser.send_json_to({"room": "hall", "on": True})
        assert (await device.next_published()).message == b'{"on":true}'
        await layer.send("normal", {"type": "job"})
        assert await layer.receive("normal") == {"type": "job"}
        await browser.disconnect()
        await layer.close()
        await device.disconnect()
    del channel_layers.backends["default"]
