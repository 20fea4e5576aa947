"""The access control list of docs/brokers/mqtt.rst is enough for every verb, and no rule of it is too many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from django_anyio_channels import AnyioChannelLayer, ChannelLayerError
from tests.docs.pages import page
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio


def rules() -> list[str]:
    """What the page allows Django."""
    blocks = page("docs/brokers/mqtt.rst").code("acl").split("\n\n")
    [section] = [each for each in blocks if each.startswith("user django\n")]
    return section.splitlines()[1:]


BRIDGE = {"sensors": "sensors/+/value", "lamp.{name}": "home/{name}/lamp", "camera": "home/camera"}


@pytest.fixture(scope="module")
def documented_broker() -> Iterator[Mosquitto]:
    one = mosquitto.protected(*rules())
    with mosquitto.running(one):
        yield one


async def test_a_user_with_these_rights_may_do_everything(documented_broker: Mosquitto) -> None:
    layer, other = (AnyioChannelLayer(url=documented_broker.url, bridge=BRIDGE, publish_timeout=5) for _ in range(2))
    with anyio.fail_after(TIME_LIMIT):
        name = await layer.new_channel()
        for member in (name, "jobs"):
            await other.group_add("room", member)
        await other.group_send("room", {"type": "x"})
        assert await layer.receive(name) == await layer.receive("jobs") == {"type": "x"}
        for channel in ("jobs", name):
            await other.send(channel, {"type": "y"})
            assert await layer.receive(channel) == {"type": "y"}
        for group, topic in (
            ("sensors", "sensors/7/value"),
            ("lamp.hall", "home/hall/lamp"),
            ("camera", "home/camera"),
        ):
            message = {"type": "mqtt.message", "topic": topic, "payload": 1}
            await layer.group_add(group, name)
            await other.group_send(group, message)
            assert await layer.receive(name) == message
        for member in (name, "jobs"):
            await other.group_discard("room", member)
        await layer.flush()
        await layer.send("jobs", {"type": "handed off"})
        await layer.close()
        assert await other.receive("jobs") == {"type": "handed off"}
        await other.close()


CALLS: dict[str, Callable[[AnyioChannelLayer], Awaitable[None]]] = {
    "+": lambda layer: layer.group_send("room", {"type": "x"}),
    "%nodes/asgi:/#": lambda layer: layer.send("jobs", {"type": "x"}),
    "sensors/+/value": lambda layer: layer.group_send(
        "sensors", {"type": "mqtt.message", "topic": "sensors/7/value", "payload": 1}
    ),
    "home/+/lamp": lambda layer: layer.group_send("lamp.hall", {"type": "mqtt.message", "payload": 1}),
    "home/camera": lambda layer: layer.group_send("camera", {"type": "mqtt.message", "payload": 1}),
}


@pytest.mark.parametrize("missing", rules())
async def test_without_one_of_these_rights_something_is_denied(missing: str) -> None:
    broker = mosquitto.protected(*[rule for rule in rules() if rule != missing])
    with mosquitto.running(broker), anyio.fail_after(TIME_LIMIT):
        layer = AnyioChannelLayer(url=broker.url, bridge=BRIDGE, publish_timeout=1)
        with pytest.raises(ChannelLayerError):
            await CALLS[missing.rsplit(maxsplit=1)[-1]](layer)
        await layer.close()
