"""Commands as they go over the wire (RESP, by hiredis), and what a server's error replies mean."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from ...core.exceptions import ChannelLayerError, ListenerClosed

FATAL_ERRORS = ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH", "UNBLOCKED")
"""After one of these a server can serve nothing more in this session."""

_CURES = {
    "MOVED": "It is one of several masters: write redis+cluster:// for it",
    "OOM": "The server's memory is used up: raise its maxmemory, or let it evict",
    "NOPERM": "Allow the command with `ACL SETUSER`, or connect as another user",
    "MISCONF": "The server cannot save its data and so refuses to change it; see its log",
}

_IN_A_SCRIPT = re.compile(r"@user_script: \d+: -([A-Z]+ .*)")
_PLACE_IN_A_SCRIPT = re.compile(r"( script: (\w+, )?on @user_script:\d+)?\.?$")
_NOT_ALLOWED_IN_A_SCRIPT = ("ERR ACL failure in script", "ERR The user executing the script can't run")
_CURE_IN_A_SCRIPT = "Allow the command, which `ACL LOG` names, with `ACL SETUSER`, or connect as another user"


class CommandExecutor(Protocol):
    """A connection, or the route to one of several."""

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded command; the future gives its reply, which may be a `hiredis.ReplyError`."""


pack_words = cast("Callable[[tuple[str | bytes | float, ...]], bytes]", hiredis.pack_command)
"""Return a command as it goes over the wire."""


def encode_command(*words: str | bytes | float) -> bytes:
    """Return a command as it goes over the wire."""
    return pack_words(words)


def is_redirection(reply: Any) -> bool:
    """Return whether a cluster's node replied that another has the slot, or that it has it only in part by now."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN "))


def error_text(reply: hiredis.ReplyError) -> str:
    """Return the server's error message without the Lua source location."""
    text = _PLACE_IN_A_SCRIPT.sub("", str(reply))
    wrapped = _IN_A_SCRIPT.search(text)
    return wrapped.group(1) if wrapped else text


def translate_error(address: str, reply: hiredis.ReplyError) -> ChannelLayerError:
    """Return the exception for an error reply; `ListenerClosed` if it ends the session."""
    text = error_text(reply)
    code = text.partition(" ")[0]
    if code in FATAL_ERRORS:
        return ListenerClosed(f"{address}: {text}")
    cure = _CURE_IN_A_SCRIPT if text.startswith(_NOT_ALLOWED_IN_A_SCRIPT) else _CURES.get(code)
    return ChannelLayerError(f"{address} refuses: {text}" + (f". {cure}" if cure else ""))
