"""What brokers say of their queues and of how they are set up."""

from __future__ import annotations

import pytest

from django_anyio_channels.core.capabilities import SupportsDiagnosis, SupportsInspection
from django_anyio_channels.core.inspection import QueueState

from .helpers import Unique, connected
from .kinds import Broker, Kind

pytestmark = pytest.mark.anyio


async def test_queues_say_what_they_hold(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        assert isinstance(layer, SupportsInspection)
        prefix = unique("q")
        assert await layer.inspect_queues(prefix, 10) == []
        for name, count in (("a{b}", 2), ("c", 1), ("d", 1)):
            for _ in range(count):
                await layer.put(f"{prefix}{name}", b"message", capacity=10, expiry=60.0)
        first, second, _ = sorted(await layer.inspect_queues(prefix, 10), key=lambda each: each.name)
        assert (first.name, first.length, first.pending) == (f"{prefix}a{{b}}", 2, 0)
        assert (second.name, second.length) == (f"{prefix}c", 1)
        assert first.expires_in is not None
        assert 0 < first.expires_in <= 60
        assert len(await layer.inspect_queues(prefix, 2)) == 2
        await layer.take(f"{prefix}a{{b}}")
        lengths = {each.name: each.length for each in await layer.inspect_queues(prefix, 10)}
        assert lengths[f"{prefix}a{{b}}"] == 1
        await layer.purge(prefix)
        assert not any(each.length for each in await layer.inspect_queues(prefix, 10))


async def test_what_has_expired_does_not_count(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        assert isinstance(layer, SupportsInspection)
        queue = unique("q")
        await layer.put(queue, b"old", capacity=10, expiry=0.001)
        await layer.put(queue, b"new", capacity=10, expiry=60.0)

        async def state() -> QueueState:
            [found] = await layer.inspect_queues(queue, 10)
            return found

        while (await state()).length == 2:
            pass
        found = await state()
        assert found.length == 1
        assert found.expires_in is not None
        assert found.expires_in > 1


async def test_every_broker_is_diagnosed(broker: Broker, kind: Kind) -> None:
    async with connected(broker) as (layer,):
        assert isinstance(layer, SupportsDiagnosis)
        findings = await layer.diagnose(1024)
        assert findings
        assert not [each for each in findings if each.level == "error"]
        assert all(each.cure for each in findings if each.level == "warning")
        assert not [each for each in findings if each.text.endswith(".") or each.cure.endswith("..")]
