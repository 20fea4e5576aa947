"""One Redis server in one life: a connection that only reads and one for commands, both watched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import hiredis

from ...core.exceptions import ChannelLayerError, ListenerClosed
from .address import Address
from .connection import Wire, pack

_LIFE_IS_OVER = ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH", "UNBLOCKED")

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

_LAST_WORDS = 0.1
_LOOKS = 4
_SILENT_LOOKS = 3
_PING = pack("PING")
_ROLE = pack("ROLE")

OnEnd = Callable[[ListenerClosed], None]


class Server:
    """Both connections to one server."""

    def __init__(self, address: Address, probe_interval: float, on_push: Callable[[list[bytes], Wire], None]) -> None:
        self.on_probe: Callable[[], None] = _nothing_to_do
        """Called every quarter of the probe interval as long as the server answers."""
        self.address = address
        self.commands: Wire
        self.listener: Wire
        self._probe_interval = probe_interval
        self._on_push = on_push
        self._next_probe: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._error: ListenerClosed | None = None

    async def open(self, on_end: OnEnd, on_deaf: OnEnd) -> None:
        """Connect. Raises `ListenerClosed`.

        ``on_end`` is called when the first of the connections has ended. The other one may still say what is on its
        way, for a moment; ``on_deaf`` is called when nothing more will be heard.
        """
        wires: list[Wire] = []
        try:
            for on_push, prelude in ((_nothing_pushed, (_ROLE,)), (self._receive, ())):
                wire, replies = await self.address.open(on_push, *prelude)
                wires.append(wire)
                self._check_role(replies)
            self.commands, self.listener = wires
            self._watch()
        except BaseException:
            self._stop_watching()
            for wire in wires:
                wire.abort()
            raise

        def commands_ended(reason: str) -> None:
            self._lost(reason, on_end)
            self._loop.call_later(_LAST_WORDS, self.listener.abort)

        def listener_ended(reason: str) -> None:
            on_deaf(self._lost(reason, on_end))
            self._loop.call_later(_LAST_WORDS, self.commands.abort)

        self.commands.on_end = commands_ended
        self.listener.on_end = listener_ended

    def _lost(self, reason: str, on_end: OnEnd) -> ListenerClosed:
        """Returns why the first of the connections ended."""
        if self._error is None:
            self._error = ListenerClosed(reason)
            self._stop_watching()
            on_end(self._error)
        return self._error

    async def last_words(self) -> None:
        """After ``on_end``: wait until nothing more comes over either connection."""
        await asyncio.wait([self.commands.lost, self.listener.lost], timeout=2 * _LAST_WORDS)
        self.commands.abort()
        self.listener.abort()

    async def close(self) -> None:
        """Close both connections in peace."""
        self._stop_watching()
        self.commands.on_end = self.listener.on_end = _expected
        await asyncio.gather(self.commands.close(), self.listener.close())

    def refusal(self, reply: hiredis.ReplyError) -> ChannelLayerError:
        """What to raise for a refused command; `ListenerClosed` if this server can serve nothing more."""
        error = explain(str(self.address), reply)
        if isinstance(error, ListenerClosed):
            self.commands.end(said(reply))
        return error

    def abort(self) -> None:
        """Drop both connections."""
        self._stop_watching()
        self.commands.on_end = self.listener.on_end = _expected
        self.commands.abort()
        self.listener.abort()

    def _check_role(self, replies: list[object]) -> None:
        for role in replies:
            if isinstance(role, list) and role[0] != b"master":
                raise ListenerClosed(
                    f"{self.address} is a read-only replica: what is published there does not reach the others. "
                    f"Name its master, the Sentinels (redis+sentinel://host:26379/name) or the cluster (redis+cluster://)"
                )

    def _receive(self, push: list[bytes]) -> None:
        self._on_push(push, self.listener)

    # Four looks in an interval. The third in a row that finds silence ends it: between three quarters and the whole.

    def _watch(self) -> None:
        for wire in (self.commands, self.listener):
            # While our side does not read, silence says nothing about the server.
            wire.silence = 0 if wire.heard or wire.paused else wire.silence + 1
            wire.heard = False
        if max(self.commands.silence, self.listener.silence) >= _SILENT_LOOKS:
            for wire in (self.commands, self.listener):
                wire.end(f"no answer for {self._probe_interval:g} s (probe_interval)")
            return
        self.commands.ask(_ROLE).add_done_callback(self._look_at_role)
        if not self.listener.paused:
            self.listener.tell(_PING)
        self._next_probe = self._loop.call_later(self._probe_interval / _LOOKS, self._watch)
        self.on_probe()

    def _look_at_role(self, answer: asyncio.Future[Any]) -> None:
        # A master that was demoted still accepts publishes, and tells them to nobody else's subscribers.
        if answer.exception() is None:
            try:
                self._check_role([answer.result()])
            except ListenerClosed as error:
                self.commands.end(str(error).removeprefix(f"{self.address} "))

    def _stop_watching(self) -> None:
        if self._next_probe is not None:
            self._next_probe.cancel()


def said(reply: hiredis.ReplyError) -> str:
    """The server's words, without where in which of our scripts that was."""
    text = _PLACE_IN_A_SCRIPT.sub("", str(reply))
    wrapped = _IN_A_SCRIPT.search(text)
    return wrapped.group(1) if wrapped else text


def explain(address: str, reply: hiredis.ReplyError) -> ChannelLayerError:
    """What a refused command means; `ListenerClosed` if nothing more can be had from who refused it."""
    text = said(reply)
    word = text.partition(" ")[0]
    if word in _LIFE_IS_OVER:
        return ListenerClosed(f"{address}: {text}")
    cure = _CURE_IN_A_SCRIPT if text.startswith(_NOT_ALLOWED_IN_A_SCRIPT) else _CURES.get(word)
    return ChannelLayerError(f"{address} refuses: {text}" + (f". {cure}" if cure else ""))


def _nothing_pushed(push: list[bytes]) -> None:
    """Nothing is subscribed to on this connection."""


def _nothing_to_do() -> None:
    """Until there is something."""


def _expected(reason: str) -> None:
    """The end of a connection that we close ourselves is no news."""
