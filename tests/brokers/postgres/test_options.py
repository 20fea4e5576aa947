"""The options of the layer on PostgreSQL: what is refused when a layer is made."""

from __future__ import annotations

import math
import ssl
from typing import Any

import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.core.exceptions import InvalidOption

WRONG: dict[str, list[Any]] = {
    "probe_interval": [0, "100", None, math.nan, True, -1, math.inf],
    "timeout": [0, "5", None, math.nan],
    "port": [0, 65536, "x", 1.5, [5432, 0]],
    "host": ["", 7, ["a", ""]],
    **{key: [7] for key in ("url", "listen_url", "user", "password", "database", "krbsrvname", "gsslib")},
    "ssl": ["yes", 1, {}],
    "server_settings": ["x", {"work_mem": 4}],
    "direct_tls": ["yes"],
    "target_session_attrs": ["master", "standby", "read-only"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_of_the_wrong_type_or_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} has an invalid value"):
        PostgreSQLChannelLayer(**{name: value})


def test_right_values_are_accepted() -> None:
    PostgreSQLChannelLayer(
        "postgresql://h",
        host=["a", "b"],
        port=["5432", 5433],
        password=lambda: "secret",
        ssl=ssl.create_default_context(),
        server_settings={"work_mem": "4MB"},
        target_session_attrs="primary",
        timeout=1.5,
    )
