"""Lua scripts, loaded by name from the folder ``lua`` and run by ``EVALSHA``.

A script declares every key that it touches in ``KEYS``, all of one slot. Channels that it publishes to are arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

import hiredis

from .packets import CommandExecutor, encode_command, pack_words

EXPIRY_PREFIX = 13
"""Digits at the head of each message of a queue: when it expires, in milliseconds on the server's clock."""

_FOLDER = files(__package__) / "lua"


class Script:
    """One Lua script, made of whole files: first those that define what it uses, then its own."""

    def __init__(self, *names: str) -> None:
        self.text: str = "\n".join((_FOLDER / f"{name}.lua").read_text() for name in names)
        self._sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, executor: CommandExecutor, keys: list[bytes], *args: bytes | str | int) -> Any:
        """Run it. The reply may be a `hiredis.ReplyError`."""
        reply = await executor.execute(self.evalsha(keys, *args))
        if is_noscript(reply):
            reply = await executor.execute(self.eval(keys, *args))
        return reply

    def evalsha(self, keys: list[bytes], *args: bytes | str | int) -> bytes:
        """Return the encoded command for a server that knows the script."""
        return pack_words(("EVALSHA", self._sha, len(keys), *keys, *args))

    def eval(self, keys: list[bytes], *args: bytes | str | int) -> bytes:
        """Return the encoded command for a server that does not know it, see `is_noscript`; from then on it does."""
        return encode_command("EVAL", self.text, len(keys), *keys, *args)


def is_noscript(reply: Any) -> bool:
    """Return whether a server does not know the script that was run by its hash."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


class ScriptCalls:
    """Calls of scripts whose replies are handed to callbacks."""

    def __init__(self) -> None:
        self._replies: set[asyncio.Future[Any]] = set()

    def run(
        self,
        executor: CommandExecutor,
        script: Script,
        keys: list[bytes],
        args: Sequence[bytes | str | int],
        replied: Callable[[Any], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Run a script. ``replied`` gets the reply, unless the connection ends or ``is_wanted()`` is false."""

        def execute(command: bytes) -> None:
            reply = executor.execute(command)
            self._replies.add(reply)
            reply.add_done_callback(received)

        def received(reply: asyncio.Future[Any]) -> None:
            self._replies.discard(reply)
            if reply.exception() is not None or not is_wanted():
                return
            if is_noscript(reply.result()):
                execute(script.eval(keys, *args))
            else:
                replied(reply.result())

        execute(script.evalsha(keys, *args))

    async def all_replied(self, seconds: float) -> None:
        """Wait until no call is without a reply, for so many seconds at most."""
        if self._replies:
            await asyncio.wait(self._replies, timeout=seconds)


PUT = Script("now", "queue", "put")
PUBLISH_ONCE = Script("publish_once")
TAKE = Script("now", "queue", "prefetch", "take")
RELEASE = Script("now", "queue", "release")
BIND = Script("now", "bind")
BOUND_GROUPS = Script("now", "bound_groups")
MARK = Script("mark")
PUT_PRESENCE = Script("now", "presence_put")
READ_PRESENCE = Script("now", "presence_read")
INSPECT = Script("now", "inspect")
