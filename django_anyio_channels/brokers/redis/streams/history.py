"""The histories of one layer's groups: written and read on the server, merged with what is heard live."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import lru_cache
from typing import NamedTuple

import hiredis

from ....core.events import Event, Gap
from ....core.exceptions import ChannelLayerError, ListenerClosed, PositionLost
from ....core.stats import RateLimitedLogger
from ..scripts import NOW, OURS, Script, beside, bindings
from ..session import Life, checked
from .entries import Frame, identity_of, read_frame
from .merge import Merge

_PAGE = 250
_ALL = 2**31
_CLOCK_DIGITS = 13
"""Digits of the milliseconds on a server's clock, until the year 2286."""
_REMEMBERED = 24 * 3600 * 1000
"""Milliseconds for which a group's place is known longer than its last message."""


def last_position(group: bytes) -> bytes:
    """The key of the position of a group's last message."""
    return beside(group, "position")


def stream(group: bytes) -> bytes:
    """The key of a group's last messages."""
    return beside(group, "history")


@lru_cache(maxsize=1024)
def _keys(group: bytes) -> list[bytes]:
    return [last_position(group), stream(group), bindings(group)]


class Published(NamedTuple):
    """What the server says of one message."""

    reached: int
    """How many nodes."""
    position: bytes
    bound: list[bytes] | hiredis.ReplyError
    """The queues that are bound to the group, as ``HGETALL`` has them."""


class History:
    """How much is kept of a group, in messages and seconds, and the calls that keep and read it."""

    def __init__(self, length: int, age: float) -> None:
        milliseconds = round(age * 1000)
        power = len(str(max(1, milliseconds // 8))) - 1
        slot = 10**power
        self._numbers = {"LENGTH": length, "AGE": milliseconds, "SLOT": slot, "DIGITS": _CLOCK_DIGITS - power}
        self._numbers["REMEMBER"] = milliseconds + slot + _REMEMBERED
        self._publish = self.script(_PUBLISH)
        self._read = self.script(KEEP_PLACE + OURS + _READ)
        self._latest = self.script(OURS + _LATEST)

    def script(self, text: str) -> Script:
        """A script whose first keys are `last_position` and `stream`, after the beginning that finds a group's place.

        It knows the position of the ``last`` message, and its two parts: the ``epoch`` with its dash and the identity
        (``before``). ``REMEMBER`` stands for the milliseconds for which a place is known, and `KEEP_PLACE` keeps it.
        """
        text = _PLACE + text
        return Script(re.sub(r"\b[A-Z]{3,}\b", lambda name: str(self._numbers.get(name[0], name[0])), text))

    async def publish(self, life: Life, group: bytes, messages: list[bytes]) -> list[Published | hiredis.ReplyError]:
        """Keep messages and publish them, each at once, in their order."""
        reply = await self._publish.run(life.commands(group), _keys(group), life.publish_verb, group, *messages)
        bound, *outcomes = checked(life, reply)
        return [
            each if isinstance(each, hiredis.ReplyError) else Published(each[0], each[1], bound) for each in outcomes
        ]

    async def page(self, life: Life, group: bytes, reached: bytes) -> tuple[bytes, list[Frame]]:
        """The position of the group's last message, and a page of what comes after ``reached``, if that is known."""
        keys = [last_position(group), stream(group)]
        reply = await self._read.run(life.commands(group), keys, reached, _PAGE)
        last, *entries = checked(life, reply)
        return last, [frame for entry in entries if (frame := read_frame(entry)) is not None]

    async def latest(self, life: Life, group: bytes, limit: int | None) -> list[Frame]:
        """The last messages, the oldest first."""
        if limit == 0:
            return []
        count = _ALL if limit is None else limit
        keys = [last_position(group), stream(group)]
        reply = checked(life, await self._latest.run(life.commands(group), keys, count))
        return [frame for entry in reply if (frame := read_frame(entry)) is not None]

    async def after(self, life: Life, group: bytes, since: bytes, limit: int | None) -> list[Frame]:
        """The messages after a position. Raises `PositionLost`."""
        found: list[Frame] = []
        reached = since
        while limit is None or len(found) < limit:
            last, frames = await self.page(life, group, reached)
            for frame in frames:
                if frame.before != identity_of(reached):
                    raise _lost(group, since)
                reached = frame.position
                found.append(frame)
            if reached == last:
                break
            if not frames:
                raise _lost(group, since)
        return found[:limit]


def _lost(group: bytes, since: bytes) -> PositionLost:
    return PositionLost(
        f"The history of {group.decode()} does not reach back to {since.decode()}: newer messages have taken the place "
        f"of what came after it, or the server has lost its memory. Begin with the last messages instead"
    )


class Topic:
    """One group that is listened to."""

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        self.reading: asyncio.Task[None] | None = None
        self.begun_anew = False
        """The answer that `reading` waits for may come too early: it has to ask once more."""
        self.seconds: float | None = None
        """How long what is being read up took, if the link was up meanwhile."""


class Histories:
    """What one layer listens to, over all its lives.

    A new life goes on where a life that broke has ended, as soon as the same groups are subscribed to again.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._life: Life
        self._topics: dict[str, Topic] = {}
        self._patterns: set[str] = set()
        self._remembered: dict[str, Merge] = {}
        self._remembered_patterns: set[str] = set()
        self._log = RateLimitedLogger()

    def begin(self, life: Life) -> None:
        """A life begins."""
        self._life = life
        life.subscriptions.on_message = self._hear
        life.subscriptions.on_missed = self._catch_up_again
        self._remembered.update((group, topic.merge) for group, topic in self._topics.items())
        self._remembered_patterns |= self._patterns
        self._topics.clear()
        self._patterns.clear()

    def restored(self) -> None:
        """What has not been subscribed to again is no longer wanted."""
        self._remembered.clear()
        self._remembered_patterns.clear()

    def forget_all(self) -> None:
        """The next life has nothing to do with this one."""
        self._topics.clear()
        self._patterns.clear()
        self.restored()

    # ---- groups -------------------------------------------------------------------------------------------------

    def expect(self, group: str) -> None:
        """The group is about to be subscribed to: what is heard of it waits for `catch_up`."""
        if group not in self._topics:
            merge = self._remembered.pop(group, None) or Merge()
            merge.begin()
            self._topics[group] = Topic(merge)

    async def catch_up(self, group: str) -> None:
        """The group is subscribed to: hand out what was missed. Several may call it at once."""
        topic = self._topics.get(group)
        if topic is not None and topic.merge.reading:
            await asyncio.shield(self._read(group, topic))

    def forget(self, group: str) -> None:
        """The group is no longer wanted."""
        self._topics.pop(group, None)

    def expect_pattern(self, pattern: str) -> None:
        """A pattern was subscribed to. Whatever it may have missed, nobody can know."""
        self._patterns.add(pattern)
        if pattern in self._remembered_patterns:
            self._remembered_patterns.discard(pattern)
            self._life.subscriptions.arrivals.add(Gap(pattern, b"", pattern))

    def forget_pattern(self, pattern: str) -> None:
        self._patterns.discard(pattern)

    # ---- events -------------------------------------------------------------------------------------------------

    def _hear(self, group: str, pattern: str | None, data: bytes) -> None:
        frame = read_frame(data)
        topic = self._topics.get(group) if pattern is None else None
        if topic is None:
            if frame is None:
                self._life.subscriptions.arrivals.add(Event(group, data, pattern))
            else:
                self._hand_out(group, frame, pattern)
        elif frame is None:
            self._log.write(logging.ERROR, "Somebody else published %r to %s, which has a history", data[:80], group)
        elif topic.merge.arrive(frame):
            self._hand_out(group, frame)
        elif topic.merge.reading:
            self._fill(group, topic)

    def _catch_up_again(self, group: str, seconds: float) -> bool:
        """The subscription has followed its slot to another master: what was said there before is in the history."""
        topic = self._topics.get(group)
        if topic is not None:
            topic.merge.begin()
            topic.begun_anew = True
            topic.seconds = seconds
            self._fill(group, topic)
        return topic is not None

    def _fill(self, group: str, topic: Topic) -> None:
        """Read on while nobody waits for it."""
        if topic.reading is None:
            self._read(group, topic).add_done_callback(self._filled)

    def _hand_out(self, group: str, frame: Frame, pattern: str | None = None) -> None:
        self._life.subscriptions.arrivals.add(Event(group, frame.message, pattern, None, frame.position.decode()))

    def _read(self, group: str, topic: Topic) -> asyncio.Task[None]:
        if topic.reading is None:
            topic.reading = asyncio.get_running_loop().create_task(self._read_on(self._life, group, topic))
            topic.reading.add_done_callback(_nobody_may_have_waited)
        return topic.reading

    async def _read_on(self, life: Life, group: str, topic: Topic) -> None:
        try:
            while topic.merge.reading:
                topic.begun_anew = False
                last, frames = await self._history.page(life, group.encode(), topic.merge.reached)
                if self._topics.get(group) is not topic or self._life is not life:
                    return
                if topic.begun_anew:
                    continue
                missed, found = topic.merge.history(last, frames)
                if missed:
                    life.subscriptions.arrivals.add(Gap(group, b"", seconds=topic.seconds))
                for frame in found:
                    self._hand_out(group, frame)
        finally:
            topic.reading = topic.seconds = None

    def _filled(self, reading: asyncio.Task[None]) -> None:
        """A hole was read while nobody waited for it. Without an answer, the next life has to find one."""
        error = None if reading.cancelled() else reading.exception()
        if isinstance(error, ChannelLayerError) and not isinstance(error, ListenerClosed):
            self._life.give_up(ListenerClosed(str(error)))


def _nobody_may_have_waited(reading: asyncio.Task[None]) -> None:
    _ = reading.cancelled() or reading.exception()


_PLACE = """
-- KEYS: the position of a group's last message, its stream. A position is an epoch and the id of the stream's entry.
local last = redis.pcall('GET', KEYS[1])
if type(last) == 'table' and not string.find(last.err, 'WRONGTYPE', 1, true) then return last end
local known = type(last) == 'string' and #last < 33
  and (string.find(last, '^%x%x%x%x%x%x%x%x%-%d%d%d%d%d%d%d%d%d%d%d%d%d%-%d+$')
    or string.find(last, '^%x%x%x%x%x%x%x%x%-0%-0$'))
if not known then
  redis.call('DEL', KEYS[2])
  last = string.sub(redis.sha1hex(KEYS[1] .. table.concat(redis.call('TIME'), ' ')), 1, 8) .. '-0-0'
end
local epoch, before = string.sub(last, 1, 9), string.sub(last, 10)
"""

KEEP_PLACE = """
-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
redis.call('PEXPIRE', KEYS[1], REMEMBER)
redis.call('SET', KEYS[1], last, 'PX', REMEMBER)
"""

# What outlives the last message by some time is prolonged once in a SLOT: a call for each message would cost more.
_PUBLISH = (
    """
-- KEYS: and the group's bindings. ARGV: verb, channel, messages.
-- The bindings, and of each message: the nodes reached and its position, or why it is refused.
local first, reply = before, {redis.pcall('HGETALL', KEYS[3])}
for index = 3, #ARGV do
  local entry = before .. '\\n' .. ARGV[index]
  local id = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', LENGTH, '*', '', entry)
  -- Somebody else may have written there: another type, or an entry of the end of time.
  if id.err and (string.find(id.err, 'WRONGTYPE', 1, true) or string.find(id.err, ' ID', 1, true)) then
    redis.call('DEL', KEYS[2])
    id = redis.pcall('XADD', KEYS[2], '*', '', entry)
  end
  local outcome = id
  if not id.err then
    local position = epoch .. id
    outcome = redis.pcall(ARGV[1], ARGV[2], position .. ' ' .. entry)
    if type(outcome) == 'table' then
      redis.call('XDEL', KEYS[2], id)
    else
      before = id
      outcome = {outcome, position}
    end
  end
  reply[index - 1] = outcome
end
if string.sub(first, 1, DIGITS) == string.sub(before, 1, DIGITS) then
  redis.call('SET', KEYS[1], epoch .. before, 'KEEPTTL')
else
"""
    + NOW
    + """
  redis.call('SET', KEYS[1], epoch .. before, 'PX', REMEMBER)
  redis.call('PEXPIRE', KEYS[2], AGE + SLOT)
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', now - AGE))
end
return reply
"""
)

_READ = """
-- ARGV: the position reached or nothing, most frames.
-- The group's last position, and the frames after the one reached.
local reply = {last}
if ARGV[1] ~= last and string.sub(ARGV[1], 1, 9) == epoch then
  ours('XLEN', KEYS[2])
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. string.sub(ARGV[1], 10), '+', 'COUNT', ARGV[2])) do
    reply[#reply + 1] = epoch .. entry[1] .. ' ' .. entry[2][2]
  end
end
return reply
"""

_LATEST = """
-- ARGV: most frames. The last frames, the oldest first.
ours('XLEN', KEYS[2])
local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[1])
local reply = {}
for index = #entries, 1, -1 do reply[#reply + 1] = epoch .. entries[index][1] .. ' ' .. entries[index][2][2] end
return reply
"""
