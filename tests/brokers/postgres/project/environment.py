"""What a process needs to run in this project."""

from __future__ import annotations

import os

from tests.support.brokers.postgres import PASSWORD, USER, Postgres


def environment(server: Postgres, **more: str) -> dict[str, str]:
    """The variables of a process whose database is on this server, and those of ours."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.brokers.postgres.project.settings",
        "PG_PORT": str(server.server.port),
        "PG_USER": USER,
        "PG_PASSWORD": PASSWORD,
        **more,
    }
