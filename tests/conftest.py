"""Django's settings for the tests that need some, and which tests share a process."""

from __future__ import annotations

import logging
import os

import hypothesis
import pytest
from django.conf import settings

from tests.support.paths import ROOT

LONG = {
    "brokers/postgres/test_transactions.py",
    "brokers/redis/cluster",
    "brokers/redis/streams",
    "brokers/redis/test_workers.py",
    "browser",
    "contract/test_django_consumers.py",
    "contract/test_django_loops.py",
    "django/commands/test_processes.py",
    "docs/test_deployment.py",
    "packaging/test_benchmarks.py",
    "packaging/test_bootstrap.py",
    "packaging/test_packaging.py",
    "testing/test_projects.py",
}
"""The files whose tests take more than half a minute, and folders with such files."""

MEASURES_PROGRAMS = "COVERAGE_PROCESS_CONFIG"
"""How coverage has the programs that are started from here measured, too."""


def pytest_configure() -> None:
    # In its debug mode asyncio logs callbacks that took long; how long depends on what else the machine does.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # Nor has any example a deadline. They are the same in each run: a change is judged by what it changes.
    hypothesis.settings.register_profile(
        "judge", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("judge")
    settings.configure(DATABASES={}, CHANNEL_LAYERS={}, INSTALLED_APPS=["channels"], SECRET_KEY="for tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one process the tests of a file, and of a file of the contract suites those over one broker.

    What takes long goes first, so that at the end no process waits for another.
    """
    items.sort(key=lambda item: not takes_long(item))
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = getattr(callspec.params.get("kind"), "name", "") if callspec else ""
        item.add_marker(pytest.mark.xdist_group(f"{place(item)} {kind}"))


def place(item: pytest.Item) -> str:
    """The path of the test's file below ``tests``; files of several folders may have one name."""
    return item.path.relative_to(ROOT / "tests").as_posix()


def takes_long(item: pytest.Item) -> bool:
    """Whether the file, or a folder that it stands in, is one of `LONG`."""
    return any(place(item) == long or place(item).startswith(f"{long}/") for long in LONG)


@pytest.fixture(scope="session", autouse=True)
def how_programs_are_measured() -> str | None:
    """They are not, unless a test asks: it doubles their time."""
    return os.environ.pop(MEASURES_PROGRAMS, None)


@pytest.fixture
def measured_programs(how_programs_are_measured: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that this test starts count for the coverage."""
    if how_programs_are_measured is not None:
        monkeypatch.setenv(MEASURES_PROGRAMS, how_programs_are_measured)
