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
    "MISCONF": "The server cannot save its data and so refuses to change it; see its log",
}

_IN_A_SCRIPT = re.compile(r"@user_script: \d+: -([A-Z]+ .*)")
_PLACE_IN_A_SCRIPT = re.compile(r"( script: (\w+, )?on @user_script:\d+)?\.?$")
_PLACE_IN_OPENSSL = re.compile(r" ?\(_ssl\.c:[0-9]+\)$")
_FORBIDDEN_COMMAND = re.compile(r"run the '([a-z|]+)' command")
_NOT_ALLOWED_IN_A_SCRIPT = ("ERR ACL failure in script", "ERR The user executing the script can't")
_CURE_IN_A_SCRIPT = "Allow the command, which `ACL LOG` names, with `ACL SETUSER`, or connect as another user"


class CommandExecutor(Protocol):
    """A connection, or the route to one of several."""

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        """Send an encoded command; the future gives its reply, which may be a `hiredis.ReplyError`."""


_Pack = Callable[[tuple[str | bytes | float, ...]], bytes]

pack_words: _Pack = cast("_Pack", hiredis.pack_command)
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
    cure = _CURES.get(code) or permission_cure(text)
    return ChannelLayerError(f"{address} refuses: {without_full_stop(text)}" + (f". {cure}" if cure else ""))


def permission_cure(text: str) -> str:
    """Return the right that a user lacks who was refused with this error message; nothing if it is about no right."""
    in_script = text.startswith(_NOT_ALLOWED_IN_A_SCRIPT)
    if not (in_script or text.startswith("NOPERM ")):
        return ""
    command = _FORBIDDEN_COMMAND.search(text)
    if command:
        right = f"+{command[1]}"
    elif "channel" in text:
        right = "&prefix*"
    elif "key" in text:
        right = "~prefix*"
    else:
        return _CURE_IN_A_SCRIPT
    return f"Allow it with `ACL SETUSER user {right}`, or connect as another user"


def without_full_stop(text: str) -> str:
    """Return the message of a server or of OpenSSL as the beginning of a sentence."""
    return _PLACE_IN_OPENSSL.sub("", text).rstrip(".? ")
