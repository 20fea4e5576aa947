"""What the doctor finds at brokers that allow or offer too little."""

from __future__ import annotations

import pytest

from django_anyio_channels.brokers.mqtt import doctor
from django_anyio_channels.core.inspection import Finding
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto

from .conftest import Connect

pytestmark = pytest.mark.anyio

LARGEST = 4 * 1024 * 1024


def texts(findings: list[Finding], level: str) -> list[str]:
    return [each.text for each in findings if each.level == level]


async def test_a_broker_with_tls(encrypted_broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(encrypted_broker.url, ca_file=encrypted_broker.ca_file)
    first, *found = await layer.diagnose(LARGEST)
    assert first.text.endswith(" is reached over TLS")
    assert any(" is mosquitto version " in each.text for each in found)


async def test_rights_that_are_missing_are_named(connect: Connect) -> None:
    one = mosquitto.protected("topic readwrite %nodes/#", "topic read +", "topic read $SYS/#")
    with mosquitto.running(one):
        found = await (await connect(one.url)).diagnose(LARGEST)
        [error] = [each for each in found if each.level == "error"]
        assert "refused a message to g:doctor: Not authorized" in error.text
        assert "topic readwrite +" in error.cure


async def test_a_broker_that_offers_little(connect: Connect) -> None:
    one = mosquitto.mosquitto("retain_available false", "max_packet_size 100000")
    with mosquitto.running(one):
        layer = await connect(one.url)
        found = await layer.diagnose(LARGEST)
        [error] = texts(found, "error")
        assert error.endswith("has no shared subscriptions or retained messages, so there are no normal channels")
        [warning] = texts(found, "warning")
        assert warning.endswith("takes packets of 100000 bytes at most, and a message may have 4194304")
        # What is retained is not to be had, the version neither.
        assert await layer.inspect_queues("", 10) == []


async def test_a_version_that_does_not_come(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_VERSION", b"$SYS/broker/nothing")
    monkeypatch.setattr(doctor, "_VERSION_SECONDS", 0.05)
    found = await (await connect(broker.url)).diagnose(LARGEST)
    assert any("does not say which version it is" in text for text in texts(found, "unknown"))


async def test_a_version_that_is_not_for_everyone(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_VERSION", b"forbidden/version")
    one = mosquitto.strict("forbidden/#")
    with mosquitto.running(one):
        found = await (await connect(one.url)).diagnose(LARGEST)
    assert any("does not say which version it is" in text for text in texts(found, "unknown"))
    assert not texts(found, "error")
