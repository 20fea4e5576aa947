"""Django's test runner, for projects whose tests run by ``manage.py test``."""

from __future__ import annotations

import os
import sys
import unittest
from typing import TYPE_CHECKING, Any, cast

from django.test import runner

from .isolation import begin_run, empty_layers, end_run

if TYPE_CHECKING:
    _Runner = runner.DiscoverRunner
else:
    _Runner = object


class _EmptyLayers(unittest.TestResult):
    """A result, which each test notifies in its own process when it begins."""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().startTest(test)
        try:
            empty_layers()
        except Exception:
            self.addError(test, sys.exc_info())


class _RemoteTestResult(_EmptyLayers, runner.RemoteTestResult):
    """The result in a process of ``--parallel``."""


class _RemoteTestRunner(runner.RemoteTestRunner):
    resultclass = _RemoteTestResult


def _init_worker(*arguments: Any, **more: Any) -> None:
    runner._init_worker(*arguments, **more)  # type: ignore[attr-defined]
    begin_run(str(os.getpid()))


class _ParallelTestSuite(runner.ParallelTestSuite):
    init_worker = _init_worker
    runner_class = _RemoteTestRunner


class ChannelsRunnerMixin(_Runner):
    """Has each test begin with empty groups and queues, under a prefix of this run, or of a process of ``--parallel``.

    It stands before the class of a runner: ``class Runner(ChannelsRunnerMixin, DiscoverRunner)``.
    """

    parallel_test_suite: type[runner.ParallelTestSuite] = _ParallelTestSuite

    def setup_test_environment(self, **kwargs: Any) -> None:
        super().setup_test_environment(**kwargs)
        begin_run()

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        empty_layers()
        super().teardown_databases(old_config, **kwargs)

    def teardown_test_environment(self, **kwargs: Any) -> None:
        end_run()
        super().teardown_test_environment(**kwargs)

    def get_resultclass(self) -> type[unittest.TextTestResult[Any]]:
        chosen = super().get_resultclass() or unittest.TextTestResult
        return cast("type[unittest.TextTestResult[Any]]", type(chosen.__name__, (_EmptyLayers, chosen), {}))


class ChannelsDiscoverRunner(ChannelsRunnerMixin, runner.DiscoverRunner):
    """What a project names as ``TEST_RUNNER``."""
