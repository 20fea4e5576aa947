"""URLs as providers give them, and what is wrong in them: `django_anyio_channels.brokers.postgres.parameters`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.brokers.postgres.parameters import read_parameters


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://", {}),
        (
            "postgres://u:p%40%2F%23%3F@h:1/a%20b",
            {"host": ["h"], "port": [1], "user": "u", "password": "p@/#?", "database": "a b"},
        ),
        ("postgresql://u:a@b@h/d", {"host": ["h"], "user": "u", "password": "a@b", "database": "d"}),
        ("postgresql://[::1]:2,h/d?port=3", {"host": ["::1", "h"], "port": [2, 3], "database": "d"}),
        ("postgresql://[::1],h:1/d", {"host": ["::1", "h"], "port": [5432, 1], "database": "d"}),
        ("postgresql://%2Frun%2Fpg/d", {"host": ["/run/pg"], "database": "d"}),
        (
            "postgresql:///?host=a,b&port=1,2&user=u&password=p&dbname=d",
            {"host": ["a", "b"], "port": [1, 2], "user": "u", "password": "p", "database": "d"},
        ),
        ("postgresql:///d?port=7&host=h", {"host": ["h"], "port": 7, "database": "d"}),
        ("postgresql:///?connect_timeout=3", {"timeout": 3.0}),
        ("postgresql:///?connect_timeout=0&sslmode=", {}),
        (
            "postgresql:///?channel_binding=prefer&gssencmode=disable&sslcompression=0&load_balance_hosts=disable",
            {},
        ),
        ("postgresql:///?keepalives=1&keepalives_idle=30&tcp_user_timeout=9&client_encoding=utf8", {}),
        (
            "postgresql:///?application_name=shop&options=-c%20a%3Db&search_path=chat&role=clerk",
            {
                "server_settings": {
                    "application_name": "shop",
                    "options": "-c a=b",
                    "search_path": "chat",
                    "role": "clerk",
                }
            },
        ),
        (
            "postgresql:///?sslmode=require&service=x&target_session_attrs=primary",
            {"dsn": "postgresql://?service=x&sslmode=require&target_session_attrs=primary"},
        ),
    ],
)
def test_a_url_becomes_arguments(url: str, arguments: dict[str, Any]) -> None:
    assert read_parameters(url) == arguments


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h:0/d", "port in the URL is no"),
        ("postgresql://h:99999/d", "port in the URL is no"),
        ("postgresql:///d?host=h&port=0", "port in the URL is no"),
        ("postgresql://u:secret@h/d?sslmode=foo", "postgresql://h/d has sslmode=foo; it must be disable or allow or"),
        ("postgresql://h/d?sslrootcert=/missing/ca.crt", "sslrootcert=/missing/ca.crt, which is not a file"),
        ("postgresql://h/d?channel_binding=require", "which asyncpg cannot do; use disable or prefer"),
        ("postgresql://h/d?gssencmode=require", "which asyncpg cannot do; use disable or prefer"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout=soon; it must be a number of seconds"),
        ("postgresql://h/d?target_session_attrs=standby", "it must be any or read-write or primary"),
        ("postgresql://h/d?ssl_min_protocol_version=SSLv3", "it must be TLSv1 or"),
    ],
)
def test_a_wrong_parameter_is_refused_when_the_layer_is_made(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PostgreSQLChannelLayer(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("secret", ["pass/word", "pass#word", "pass?word", "pa/ss@word", "pa#ss@word", "pa?ss@word"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="percent-encode the password") as caught:
        PostgreSQLChannelLayer(f"postgresql://user:{secret}@db.example:5432/shop")
    for part in ("pa", "word", "user", "example"):
        assert part not in str(caught.value).replace("percent-encode the password", "")


def test_options_override_the_url(tmp_path: Path) -> None:
    for options, address in (({"port": 1}, "h:1"), ({"host": "other"}, "other"), ({"host": None}, "h:5")):
        layer = PostgreSQLChannelLayer("postgresql://h:5/d", **options)
        assert layer.address == f"postgresql://{address}/d"
    (tmp_path / "ca.crt").touch()
    PostgreSQLChannelLayer(f"postgresql://h/d?sslmode=verify-ca&sslrootcert={tmp_path}/ca.crt")
