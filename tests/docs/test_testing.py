"""The samples of docs/guides/testing.rst run, under pytest and under Django's runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.brokers import postgres
from tests.support.brokers.server import running

from .pages import page

SETTINGS = """
SECRET_KEY = "for tests"
INSTALLED_APPS = ["channels", "django_anyio_channels"]
DATABASES = {{"default": {entry!r}}}
CHANNEL_LAYERS = {{
    "default": {{
        "BACKEND": "django_anyio_channels.AnyioChannelLayer",
        "CONFIG": {{"database": "default"}},
    }},
}}
"""


def test_samples_run(tmp_path: Path) -> None:
    blocks = page("docs/guides/testing.rst").in_language("python")
    runner_setting, runner, orders, transactions, outage = (block.astext() + "\n" for block in blocks)
    server = postgres.plain()
    (tmp_path / "settings.py").write_text(SETTINGS.format(entry=server.entry) + runner_setting)
    (tmp_path / "own_settings.py").write_text('from settings import *\nTEST_RUNNER = "runner.Runner"\n')
    for name, text in {"runner": runner, "test_a": orders, "test_b": transactions, "test_c": outage}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def run(*command: str, settings: str = "settings") -> str:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-m", *command],
            cwd=tmp_path,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": settings, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    with running(server.server):
        assert "3 passed" in run("pytest", "-p", "no:cacheprovider", "-p", "no:valkey")
        for settings in ("settings", "own_settings"):
            assert "Ran 1 test" in run("django", "test", "--pattern", "test_b.py", settings=settings)
