"""The options of the layer on PostgreSQL: what is refused when a layer is made."""

from __future__ import annotations

import math
import ssl
from typing import Any

import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.core.exceptions import InvalidOption


@pytest.mark.parametrize(
    "options",
    [
        *({"probe_interval": value} for value in (0, "100", None, math.nan, True, -1, math.inf)),
        *({"timeout": value} for value in (0, "5", None, math.nan)),
        *({"port": value} for value in (0, 65536, "x", 1.5, [5432, 0])),
        *({"host": value} for value in ("", 7, ["a", ""])),
        *({name: 7} for name in ("url", "listen_url", "user", "password", "database", "krbsrvname", "gsslib")),
        *({"ssl": value} for value in ("yes", 1, {})),
        *({"server_settings": value} for value in ("x", {"work_mem": 4})),
        {"direct_tls": "yes"},
        {"target_session_attrs": "master"},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_or_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"^{next(iter(options))} has an invalid value"):
        PostgreSQLChannelLayer(**options)


@pytest.mark.parametrize(
    "query", ["sslmode=foo", "target_session_attrs=master", "sslrootcert=/no/such/file", "sslkey=/no/such/file"]
)
def test_a_value_in_a_url_is_checked(query: str) -> None:
    for options in ({"url": f"postgresql://h?{query}"}, {"listen_url": f"postgresql://h?{query}"}):
        with pytest.raises(InvalidOption, match=f"^{query.partition('=')[0]} has an invalid value"):
            PostgreSQLChannelLayer(**options)


def test_right_values_are_accepted() -> None:
    PostgreSQLChannelLayer(
        f"postgresql://h?sslmode=verify-full&sslrootcert={__file__}",
        host=["a", "b"],
        port=["5432", 5433],
        password=lambda: "secret",
        ssl=ssl.create_default_context(),
        server_settings={"work_mem": "4MB"},
        target_session_attrs="primary",
        timeout=1.5,
    )
