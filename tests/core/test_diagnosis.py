"""Findings about what all brokers have: TLS, and a clock."""

from __future__ import annotations

import pytest

from django_anyio_channels.core.diagnosis import clock_finding, tls_finding


@pytest.mark.parametrize(
    ("host", "encrypted", "level"),
    [
        ("example.com", True, "ok"),
        ("example.com", False, "warning"),
        ("10.0.0.1", False, "warning"),
        *((host, False, "ok") for host in ("127.0.0.1", "::1", "localhost", "")),
    ],
)
def test_a_way_that_leaves_the_machine_should_be_encrypted(host: str, encrypted: bool, level: str) -> None:
    finding = tls_finding("broker", host, encrypted=encrypted, cure="Encrypt it")
    assert finding.level == level
    assert finding.cure == ("Encrypt it" if level == "warning" else "")


@pytest.mark.parametrize(
    ("clock", "before", "after", "text"),
    [
        (100.0, 100.0, 100.0, "The clock of broker agrees with this one"),
        (104.0, 95.0, 105.0, "The clock of broker agrees with this one"),
        (110.0, 100.0, 101.0, "The clock of broker is 9.5 s ahead of this one"),
        (90.0, 100.0, 101.0, "The clock of broker is 10.5 s behind this one"),
    ],
)
def test_a_clock_may_differ_by_the_time_that_reading_it_takes(
    clock: float, before: float, after: float, text: str
) -> None:
    finding = clock_finding("broker", clock, before, after)
    assert finding.text == text
    assert (finding.level == "ok") is text.endswith("agrees with this one")
