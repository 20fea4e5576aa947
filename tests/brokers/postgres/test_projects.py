"""A real Django project tests itself: its layer follows Django to the test databases, and lets go of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers.postgres import Postgres
from tests.support.paths import ROOT

from .project.environment import environment

OWN = ROOT / "tests" / "brokers" / "postgres" / "project"
PYTEST = ["pytest", "-q", "-s", "-c", os.devnull, f"--rootdir={OWN}", "--noconftest"]
PYTEST += ["-p", "no:cacheprovider", "-p", "no:asyncio"]


def run(server: Postgres, *command: str, **more: str) -> str:
    """Run a Python program in the project, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", *command],
        cwd=ROOT,
        env=environment(server, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def databases(server: Postgres) -> set[str]:
    return {name for (name,) in server.ask("SELECT datname FROM pg_database WHERE datname LIKE 'test_postgres%'")}


@pytest.mark.usefixtures("measured_programs")
def test_djangos_runner_in_parallel(own_server: Postgres, tmp_path: Path) -> None:
    printed = run(own_server, "django", "test", "--parallel", "2", "tests.brokers.postgres.project", MEET=str(tmp_path))
    assert set(re.findall("followed to (.*)", printed)) == {"test_postgres_1", "test_postgres_2"}
    assert databases(own_server) == set()


def test_pytest_django_reuses_the_database(own_server: Postgres) -> None:
    for more in ({}, {"USE_TZ": "0", "CONN_MAX_AGE": "60"}):
        printed = run(own_server, *PYTEST, "--reuse-db", str(OWN / "tests.py"), **more)
        assert "9 passed" in printed
        assert set(re.findall("followed to (.*)", printed)) == {"test_postgres"}
        assert databases(own_server) == {"test_postgres"}
