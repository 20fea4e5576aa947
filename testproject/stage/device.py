"""A simulated device: a lamp with a thermometer, which speak MQTT and JSON, and have never heard of Channels."""

import json
import math
import sys
import time
from typing import Any

import anyio

from django_anyio_channels import Channel, DecodeError, MQTTChannelLayer


class Json:
    """Payloads as devices write them."""

    def encode(self, message: Any) -> bytes:
        return json.dumps(message).encode()

    def decode(self, payload: bytes) -> Any:
        try:
            return json.loads(payload)
        except ValueError as error:
            raise DecodeError(str(error)) from None


async def main(url: str) -> None:
    """Report the temperature every second, and the state of the lamp with it and when it changes."""
    lamp = {"on": False}
    async with (
        Channel(MQTTChannelLayer(url), serializer=Json()) as channel,
        channel.subscribe("home/lamp/set") as switch,
    ):
        while True:
            celsius = round(21 + 2 * math.sin(time.time() / 20), 1)
            await channel.publish("home/thermometer", {"celsius": celsius})
            await channel.publish("home/lamp", lamp)
            with anyio.move_on_after(1):
                lamp = {"on": (await switch.receive()).message.get("on") is True}


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
