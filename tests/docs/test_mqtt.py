"""What docs/brokers/mqtt.rst says is what the sources do, and what mosquitto takes."""

from __future__ import annotations

import inspect
from dataclasses import fields

import anyio
import pytest
from channels.layers import channel_layers

from django_anyio_channels import AnyioChannelLayer, MQTTChannelLayer
from django_anyio_channels.brokers.mqtt.address import MQTTOptions
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.brokers.redis import make_certificates
from tests.support.brokers.server import new_folder

from .pages import page

PAGE = page("docs/brokers/mqtt.rst")
DEVICES = page("docs/guides/devices.rst")


def rows() -> dict[str, str]:
    """The options of the table of settings, and their defaults."""
    return {option: default for options, (default, _) in PAGE.rows("own").items() for option in options.split()}


def test_every_option_is_documented_with_its_default() -> None:
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
    lines = PAGE.code("mosquitto").replace("/etc/mosquitto", str(folder)).replace("/var/lib/mosquitto/", f"{folder}/")
    (folder / "acl").write_text(PAGE.code("acl") + "\n")
    (folder / "acl").chmod(0o600)
    mosquitto.make_passwords(folder, "django")
    listener = [line for line in lines.splitlines() if line.split()[:1] and line.split()[0] not in ("#", "listener")]
    secret = mosquitto.PASSWORD.replace(" ", "%20")
    return mosquitto.mosquitto(
        listener=listener, url=f"mqtts://django:{secret}@127.0.0.1:{{port}}/?ca_file={folder}/ca.crt", generous=False
    )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_house_of_the_page_lives_on_the_broker_of_the_page(anyio_backend: str) -> None:
    from channels.testing import WebsocketCommunicator

    broker = mosquitto_as_documented()
    with mosquitto.running(broker), anyio.fail_after(30):
        layer = AnyioChannelLayer(**{**DEVICES.run("bridge")["CONFIG"], "url": broker.url})
        device = MQTTChannelLayer(broker.url)
        await device.connect()
        await device.subscribe("home/hall/lamp")
        channel_layers.set("default", layer)
        browser = WebsocketCommunicator(DEVICES.run("house")["House"].as_asgi(), "/")
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
