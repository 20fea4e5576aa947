"""What a server's error replies mean."""

from __future__ import annotations

import hiredis
import pytest

from django_anyio_channels.brokers.redis.packets import error_text, translate_error


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


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("NOPERM User a has no permissions to run the 'pubsub|numsub' command", "+pubsub|numsub"),
        ("NOPERM this user has no permissions to run the 'get' command or its subcommand", "+get"),
        ("NOPERM No permissions to access a channel", "&prefix*"),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", "~prefix*"),
        ("ERR ACL failure in script: User a has no permissions to run the 'rpush' command", "+rpush"),
        (
            "ERR The user executing the script can't access at least one of the keys mentioned in the command",
            "~prefix*",
        ),
        ("ERR The user executing the script can't publish to the channel mentioned in the command", "&prefix*"),
        ("ERR The user executing the script can't run this command or subcommand", "which `ACL LOG` names"),
    ],
)
def test_a_refusal_names_the_right_that_lacks(text: str, right: str) -> None:
    message = str(translate_error("redis://h", hiredis.ReplyError(f"{text}.")))
    assert message.startswith(f"redis://h refuses: {text}. Allow ")
    assert right in message
