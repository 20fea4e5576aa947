"""What Django's runner reports of layers that cannot be emptied."""

from __future__ import annotations

import io
import unittest

import pytest

from django_anyio_channels import ListenerClosed
from django_anyio_channels.testing import runner


def test_layer_that_cannot_be_emptied_is_an_error_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Case(unittest.TestCase):
        def runTest(self) -> None:  # noqa: N802 - unittest's name
            ran.append(self.id())

    def fail() -> None:
        raise ListenerClosed("No connection")

    monkeypatch.setattr(runner, "empty_layers", fail)
    resultclass = runner.ChannelsDiscoverRunner(interactive=False).get_resultclass()
    result = unittest.TextTestRunner(io.StringIO(), resultclass=resultclass).run(Case())
    [(_, error)] = result.errors
    assert "ListenerClosed: No connection" in error
    assert len(ran) == 1
