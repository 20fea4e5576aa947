"""The plugin of pytest, which every pytest loads where this package is installed.

So it imports Django and Channels only for tests of projects that use them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .isolation import begin_run, empty_layers, end_run

if TYPE_CHECKING:
    from ..django.layer import AnyioChannelLayer


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    # Before the first module of a project, which may make a layer.
    begin_run(os.environ.get("PYTEST_XDIST_WORKER", ""))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    empty_layers()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None:  # before the fixture that drops the test databases
        empty_layers()


def pytest_unconfigure() -> None:
    end_run()


@pytest.fixture
def channel_layer(request: pytest.FixtureRequest) -> AnyioChannelLayer:
    """The layer ``default``, without messages and groups; in the test database if it is on one of Django's."""
    from ..django.registry import get_channel_layer

    layer = get_channel_layer()
    if layer._settings.database is not None:
        request.getfixturevalue("django_db_setup")
    return layer
