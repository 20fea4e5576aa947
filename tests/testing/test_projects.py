"""A project tests itself with pytest's plugin and with Django's runner, on brokers of each kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import PROJECT, Project

pytestmark = pytest.mark.usefixtures("measured_programs")

RUN = r"asgi\.test-[0-9a-f]{12}"
CASES = {"InTestCase", "InTransactionTestCase"}


@pytest.mark.parametrize("project", ["redis", "database"], indirect=True)
def test_pytest_with_two_processes(project: Project, tmp_path: Path) -> None:
    files = [str(PROJECT / file) for file in ("cases.py", "functions.py", "live.py")]
    by_class = ("-n", "2", "--dist=loadscope", "--no-loadscope-reorder")
    printed = project.pytest(*by_class, *files, MEET=str(tmp_path))
    assert "24 passed" in printed
    ran = set(re.findall(r"\[(gw\d)\].* PASSED \S+::(InTestCase|InTransactionTestCase)::", printed))
    assert len(ran) == len({process for process, _ in ran}) == len({case for _, case in ran}) == 2
    assert project.remains() == set()


@pytest.mark.parametrize("project", ["memory"], indirect=True)
def test_pytest_with_one_process(project: Project) -> None:
    printed = project.pytest("-s", str(PROJECT / "cases.py"))
    assert "14 passed" in printed
    assert re.fullmatch(RUN, "".join(project.prefixes))


@pytest.mark.parametrize("project", ["redis", "database"], indirect=True)
def test_djangos_runner_with_two_processes(project: Project, tmp_path: Path) -> None:
    command = ("django", "test", "tests.testing.project", "--parallel", "2", "--pattern", "cases.py")
    assert "Ran 14 tests" in project.run(*command, MEET=str(tmp_path))
    assert len(project.prefixes) == 2
    assert all(re.fullmatch(rf"{RUN}-\d+", prefix) for prefix in project.prefixes)


@pytest.mark.parametrize("project", ["redis"], indirect=True)
def test_djangos_runner_with_one_process(project: Project) -> None:
    assert "Ran 1 test" in project.run("django", "test", "tests.testing.project", "--pattern", "live.py")
    assert project.remains() == set()
