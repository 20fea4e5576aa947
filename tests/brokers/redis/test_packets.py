"""What a server's error replies mean."""

from __future__ import annotations

import hiredis
import pytest

from django_anyio_channels.brokers.redis.packets import error_text


@pytest.mark.parametrize(
    ("reply", "meant"),
    [
        ("@user_script: 23: -OOM command not allowed when used memory > 'maxmemory'.", "OOM command not allowed"),
        (
            (
                "ERR Error running script (call to f_54f6ca2750d4d850f9e386260c585f4ebb784308): @user_script:42: "
                "@user_script: 42: -READONLY You can't write against a read only replica."
            ),
            "READONLY You can't write",
        ),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM command not allowed"),
    ],
)
def test_what_redis_6_2_says_of_scripts_is_understood(reply: str, meant: str) -> None:
    assert error_text(hiredis.ReplyError(reply)).startswith(meant)
