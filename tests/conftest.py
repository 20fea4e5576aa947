"""Django's settings for the tests that need some; each test overrides what it is about. And who works side by side."""

from __future__ import annotations

import logging
import os

import hypothesis
import pytest
from django.conf import settings

LONG = {
    "test_benchmarks",
    "test_bootstrap",
    "test_chat",
    "test_cluster",
    "test_django_consumers",
    "test_django_loops",
    "test_job_workers",
    "test_packaging",
    "test_streams_cluster",
    "test_streams_faults",
    "test_transactions",
    "test_workers",
}
"""The files whose tests take more than half a minute."""

MEASURES_PROGRAMS = "COVERAGE_PROCESS_CONFIG"
"""Where coverage tells the programs that are started from here to be measured, too."""


def pytest_configure() -> None:
    # In its debug mode asyncio tells of callbacks that took long; how long depends on what else the machine does.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # Nor is any example given a time. They are the same in each run: a change is judged by what it changes.
    hypothesis.settings.register_profile(
        "judge", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("judge")
    settings.configure(DATABASES={}, CHANNEL_LAYERS={}, INSTALLED_APPS=["channels"], SECRET_KEY="for tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What stays together in one process: the tests of a file, and in the contract suites those over one broker.

    What takes long goes first, so that at the end no process waits for another.
    """
    items.sort(key=lambda item: item.path.stem not in LONG)
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = getattr(callspec.params.get("kind"), "name", "") if callspec else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {kind}"))


@pytest.fixture(scope="session", autouse=True)
def how_programs_are_measured() -> str | None:
    """They are not, unless a test asks: it doubles their time."""
    return os.environ.pop(MEASURES_PROGRAMS, None)


@pytest.fixture
def measured_programs(how_programs_are_measured: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that this test starts count for the coverage."""
    if how_programs_are_measured is not None:
        monkeypatch.setenv(MEASURES_PROGRAMS, how_programs_are_measured)
