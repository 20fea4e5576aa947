"""The rights that the README tells a user of Redis to have are enough for every verb."""

from __future__ import annotations

import anyio
import docutils.nodes
import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.brokers.redis.keys import nodes_channel
from tests.docs.test_readme import parsed
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT

from .conftest import becomes_true

pytestmark = pytest.mark.anyio

README = ROOT / "README.rst"


def grant(server: brokers.Redis) -> str:
    """Do what the README says, and return the user and password for a URL."""
    [block] = [
        block for block in parsed(README.read_text()).findall(docutils.nodes.literal_block) if "acl" in block["classes"]
    ]
    command = block.astext().split()
    server.ask(*command)
    password = next(word[1:] for word in command if word.startswith(">"))
    return f"{command[2]}:{password}@"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_user_with_these_rights_may_do_everything(server: brokers.Redis, streams: bool) -> None:
    url = server.url.replace("://", f"://{grant(server)}")
    layer, other = (
        AnyioChannelLayer(
            url=brokers.with_streams(url) if streams else url,
            acknowledged=["work"] if streams else [],
            publish_timeout=3,
        )
        for _ in range(2)
    )
    with anyio.fail_after(30):
        name = await layer.new_channel()
        for member in (name, "jobs"):
            await other.group_add("room", member)
        await other.group_send("room", {"type": "x"})
        assert await layer.receive(name) == await layer.receive("jobs") == {"type": "x"}
        # Who may not be counted is not waited for after an outage.
        await becomes_true(lambda: server.ask("PUBSUB", "NUMSUB", nodes_channel(b"asgi:").decode())[1] == 2)
        for channel in ("jobs", "work", name):
            await other.send(channel, {"type": "y"})
            message = await layer.receive(channel)
            assert message == {"type": "y"}
            await layer.ack(message)
        if streams:
            assert len(await layer.group_history("room")) == 1
            await layer.group_resume("room", await layer.new_channel(), last=1)
        for member in (name, "jobs"):
            await other.group_discard("room", member)
        await layer.flush()
        await layer.close()
        await other.close()
