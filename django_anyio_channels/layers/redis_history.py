"""The histories of one layer's groups: written and read on the server, merged with what is heard live."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import lru_cache
from typing import Any

import hiredis

from ..event import Event, Gap
from ..exceptions import ChannelLayerError, ListenerClosed, PositionLost
from ..losses import BoundedLog
from .redis_frames import Frame, identity_of, read_frame
from .redis_life import Life
from .redis_merge import Merge
from .redis_scripts import Script, beside, bindings

_PAGE = 250
_ALL = 2**31
_REMEMBER = 24 * 3600 * 1000
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


class History:
    """How much is kept of a group, in messages and seconds, and the calls that keep and read it."""

    def __init__(self, length: int, age: float) -> None:
        milliseconds = round(age * 1000)
        slot = max(1, milliseconds // 8)
        numbers = {"LENGTH": length, "AGE": milliseconds, "SLOT": slot}
        numbers["REMEMBER"] = milliseconds + slot + _REMEMBER
        self._publish, self._read = (_script(text, numbers) for text in (_PUBLISH, _READ))

    async def publish(self, life: Life, group: bytes, message: bytes) -> tuple[int, bytes, list[bytes]]:
        """Keep a message and publish it, at once: how many nodes were reached, its position, the queues bound."""
        keys = _keys(group)
        reply = await self._publish.run(life.commands(group), keys, message, life.publish_verb, group)
        reached, position, bound = _checked(life, reply)
        return reached, position, bound

    async def page(self, life: Life, group: bytes, reached: bytes) -> tuple[bytes, list[Frame]]:
        """The position of the group's last message, and a page of what comes after ``reached``, if that is known."""
        keys = [last_position(group), stream(group)]
        reply = await self._read.run(life.commands(group), keys, reached, _PAGE)
        last, *entries = _checked(life, reply)
        return last, [frame for entry in entries if (frame := read_frame(entry)) is not None]

    async def latest(self, life: Life, group: bytes, limit: int | None) -> list[Frame]:
        """The last messages, the oldest first."""
        count = _ALL if limit is None else limit
        reply = _checked(life, await _LATEST.run(life.commands(group), [stream(group)], count))
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


def _script(text: str, numbers: dict[str, int]) -> Script:
    return Script(_PLACES + re.sub(r"\b[A-Z]{3,}\b", lambda name: str(numbers.get(name[0], name[0])), text))


def _checked(life: Life, reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        raise life.refusal(reply)
    return reply


class Topic:
    """One group that is listened to."""

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        self.reading: asyncio.Task[None] | None = None


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
        self._log = BoundedLog()

    def begin(self, life: Life) -> None:
        """A life begins."""
        self._life = life
        life.subscriptions.on_message = self._hear
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
            self._life.subscriptions.deliver(Gap(pattern, b"", pattern))

    def forget_pattern(self, pattern: str) -> None:
        self._patterns.discard(pattern)

    # ---- events -------------------------------------------------------------------------------------------------

    def _hear(self, group: str, pattern: str | None, data: bytes) -> None:
        frame = read_frame(data)
        topic = self._topics.get(group) if pattern is None else None
        if topic is None:
            if frame is None:
                self._life.subscriptions.deliver(Event(group, data, pattern))
            else:
                self._hand_out(group, frame, pattern)
        elif frame is None:
            self._log.write(logging.ERROR, "Somebody else published %r to %s, which has a history", data[:80], group)
        elif topic.merge.arrive(frame):
            self._hand_out(group, frame)
        elif topic.merge.reading and topic.reading is None:
            self._read(group, topic).add_done_callback(self._filled)

    def _hand_out(self, group: str, frame: Frame, pattern: str | None = None) -> None:
        self._life.subscriptions.deliver(Event(group, frame.message, pattern, None, frame.position.decode()))

    def _read(self, group: str, topic: Topic) -> asyncio.Task[None]:
        if topic.reading is None:
            topic.reading = asyncio.get_running_loop().create_task(self._read_on(self._life, group, topic))
            topic.reading.add_done_callback(_nobody_may_have_waited)
        return topic.reading

    async def _read_on(self, life: Life, group: str, topic: Topic) -> None:
        try:
            while topic.merge.reading:
                last, frames = await self._history.page(life, group.encode(), topic.merge.reached)
                if self._topics.get(group) is not topic or self._life is not life:
                    return
                missed, found = topic.merge.history(last, frames)
                if missed:
                    life.subscriptions.deliver(Gap(group, b""))
                for frame in found:
                    self._hand_out(group, frame)
        finally:
            topic.reading = None

    def _filled(self, reading: asyncio.Task[None]) -> None:
        """A hole was read while nobody waited for it. Without an answer, the next life has to find one."""
        error = reading.exception()
        if isinstance(error, ChannelLayerError) and not isinstance(error, ListenerClosed):
            self._life.commands(b"").end(str(error))


def _nobody_may_have_waited(reading: asyncio.Task[None]) -> None:
    reading.exception()


_PLACES = """
-- KEYS: the position of a group's last message, its stream. A position is epoch-milliseconds-offset.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, before, milliseconds, offset
local last = redis.pcall('GET', KEYS[1])
if type(last) == 'table' and not string.find(last.err, 'WRONGTYPE', 1, true) then return last end
if type(last) == 'string' then
  epoch, before, milliseconds, offset = string.match(last, '^(%x%x%x%x%x%x%x%x)%-((%d+)%-(%d+))$')
end
if not epoch then
  redis.call('DEL', KEYS[2])
  epoch = string.sub(redis.sha1hex(KEYS[1] .. time[1] .. ' ' .. time[2]), 1, 8)
  before, milliseconds, offset = '0-0', 0, 0
end
milliseconds = tonumber(milliseconds)
"""

# What outlives the last message by some time is prolonged once in a SLOT: a call for each message would cost more.
_PUBLISH = """
-- KEYS: and the group's bindings. ARGV: message, verb, channel.
-- The nodes reached, the message's position, the bindings.
local id = string.format('%.0f-%.0f', math.max(now, milliseconds), offset + 1)
local position = epoch .. '-' .. id
local frame = position .. ' ' .. before .. '\\n' .. ARGV[1]
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', LENGTH, id, '', frame)
if type(added) == 'table' then
  if not string.find(added.err, 'WRONGTYPE', 1, true) then return added end
  redis.call('DEL', KEYS[2])
  redis.call('XADD', KEYS[2], id, '', frame)
end
if now % SLOT <= now - milliseconds then
  redis.call('SET', KEYS[1], position, 'PX', REMEMBER)
  redis.call('PEXPIRE', KEYS[2], AGE + SLOT)
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', now - AGE))
else
  redis.call('SET', KEYS[1], position, 'KEEPTTL')
end
local bound = redis.pcall('HGETALL', KEYS[3])
return {redis.call(ARGV[2], ARGV[3], frame), position, bound.err and {} or bound}
"""

_READ = """
-- ARGV: the position reached or nothing, most frames.
-- The group's last position, and the frames after the one reached.
last = epoch .. '-' .. before
redis.call('SET', KEYS[1], last, 'PX', REMEMBER)
local reply = {last}
if ARGV[1] ~= last and string.sub(ARGV[1], 1, 8) == epoch then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. string.sub(ARGV[1], 10), '+', 'COUNT', ARGV[2])) do
    reply[#reply + 1] = entry[2][2]
  end
end
return reply
"""

_LATEST = Script(
    """
-- KEYS: a group's stream. ARGV: most frames. The last frames, the oldest first.
local entries = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])
local reply = {}
for index = #entries, 1, -1 do reply[#reply + 1] = entries[index][2][2] end
return reply
"""
)
