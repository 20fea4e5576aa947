"""The project that tests itself, on the broker that the test names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import postgres, redis
from tests.support.brokers.server import running
from tests.support.paths import ROOT

PROJECT = Path("tests/testing/project")


@dataclass
class Project:
    """The project with one layer and one database."""

    config: dict[str, Any]
    database: dict[str, Any]
    server: redis.Redis | postgres.Postgres | None = None
    prefixes: set[str] = field(default_factory=set)
    """The prefixes of the last run."""

    def run(self, *command: str, **more: str) -> str:
        """Run a Python program that must succeed, and return what it prints."""
        environment = {
            # Without the variables by which pytest-xdist names the process that this is.
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "DJANGO_SETTINGS_MODULE": "tests.testing.project.settings",
            "CONFIG": json.dumps(self.config),
            "DATABASE": json.dumps(self.database),
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout
        self.prefixes = set(re.findall(r"prefix of \d+: (\S+):", done.stdout))
        return done.stdout

    def pytest(self, *arguments: str, **more: str) -> str:
        """Run pytest with the plugins that a project has."""
        return self.run(
            *("pytest", "-c", os.devnull, f"--rootdir={PROJECT}", "--noconftest", "-p", "no:cacheprovider"),
            *("-p", "no:valkey", "-o", "asyncio_default_fixture_loop_scope=function", "-v", *arguments),
            **more,
        )

    def remains(self) -> set[str]:
        """What the last run has left on the broker."""
        if isinstance(self.server, redis.Redis):
            return set(self.server.ask("KEYS", "*.test-*"))
        return set()


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("database")
    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{folder}/sqlite",
        "TEST": {"NAME": f"{folder}/test_sqlite"},
    }
    if request.param == "memory":
        yield Project({"url": "memory://"}, sqlite)
    elif request.param == "redis":
        server = redis.plain()
        with redis.running(server):
            yield Project({"url": server.url}, sqlite, server)
    else:
        database = postgres.plain()
        with running(database.server):
            entry = database.entry | {"TEST": {"NAME": "test_postgres"}}
            yield Project({"database": "default"}, entry, database)
