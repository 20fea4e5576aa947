"""``channels ping``."""

from __future__ import annotations

import json
from typing import Any

from tests.support.brokers.server import free_port

from .conftest import Site, call, project, refused


def test_every_layer_is_reached(site: Site, config: dict[str, Any]) -> None:
    with project(default=config, other={"prefix": "other"}):
        printed = call("ping").splitlines()
        assert [line.rpartition(": ")[0] for line in printed] == ["default: memory://", "other: memory://"]
        assert all(line.endswith(" ms") for line in printed)
        result = json.loads(call("ping", "--json", "--alias", "other"))
        assert result["other"].pop("seconds") > 0
        assert result == {"other": {"brokers": ["memory://"], "error": None}}


def test_one_that_is_not_reached_is_a_failure(site: Site, config: dict[str, Any]) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    with project(default=config, gone={"url": url}):
        reason, printed = refused("ping", "--timeout", "0.2")
        assert reason == "No round trip through gone. `manage.py channels doctor` says more."
        assert printed.splitlines()[1] == (
            f"gone: {url}/0 could not be reached within 0.2 s. Check that the broker runs and that the address is right"
        )
        _, printed = refused("ping", "--timeout", "0.2", "--json")
        assert "could not be reached" in json.loads(printed)["gone"]["error"]
