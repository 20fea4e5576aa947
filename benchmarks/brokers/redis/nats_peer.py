"""Who carries groups over NATS: ``channels_nats``."""

from __future__ import annotations

from typing import cast

from ...harness.contenders import Contender, Layer


def channels_nats(name: str, port: int) -> Contender:
    """``channels_nats``: a group is a subject, and whoever sends waits for no answer of the server's.

    What comes to a full mailbox is dropped, so the mailboxes have room for whatever is measured.
    """
    from channels_nats import NatsChannelLayer

    async def close(layer: Layer) -> None:
        await cast(NatsChannelLayer, layer).close()

    def make() -> Layer:
        return cast(Layer, NatsChannelLayer(servers=[f"nats://127.0.0.1:{port}"], capacity=100_000))

    return Contender(name, make, close)
