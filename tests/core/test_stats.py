"""Logging at a bounded rate."""

from __future__ import annotations

import logging

import pytest

from django_anyio_channels.core.stats import OutageStats, RateLimitedLogger


def test_a_rate_limited_logger_says_how_much_it_suppressed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("django_anyio_channels.core.stats.monotonic", lambda: now)
    log = RateLimitedLogger(lines=2, seconds=10.0)
    assert [log.write(logging.WARNING, "line %d", number) for number in range(5)] == [True, True, False, False, False]
    now += 9.9
    assert not log.write(logging.WARNING, "line %d", 5)
    now += 0.2
    error = ZeroDivisionError()
    assert log.write(logging.ERROR, "line %d", 6, exc_info=error)
    assert log.write(logging.ERROR, "line %d", 7)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "line 0"),
        (logging.WARNING, "line 1"),
        (logging.ERROR, "line 6 (4 similar lines suppressed)"),
        (logging.ERROR, "line 7"),
    ]
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [None, None, error, None]


def test_outages_last_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("django_anyio_channels.core.stats.monotonic", lambda: now)
    outages, one, other = OutageStats(), object(), object()
    outages.begin(one)
    now += 2.0
    outages.begin(other)
    now += 1.0
    assert (outages.current, outages.seconds, outages.reconnects) == (2, 4.0, 0)
    assert outages.end(one) == 3.0
    now += 5.0
    assert (outages.current, outages.seconds, outages.reconnects) == (1, 9.0, 1)
