"""Acknowledged work on the server: what is in hands, and the Lua scripts that take it, hand it on and give it back.

Where jobs come from, a queue or the history of a group, they are removed or passed; what was handed out and not
acknowledged is kept beside it, so that neither a trimmed history nor an expiry can take it away. (The consumer groups
of Redis' streams forget what is trimmed.) Two keys hold it: when each job is due to be handed out again, in a sorted
set, and its message and how often it was handed out, in a hash.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple
from urllib.parse import quote

from ..scripts import NOW, OURS, Script, beside, wake_ups
from ..session import Life, checked
from .history import KEEP_PLACE, History, last_position, stream

_DAY = 24 * 3600 * 1000
"""Milliseconds for which work is kept that nobody asks for, over the time in which it is due again."""


class Place(NamedTuple):
    """Where work is taken from: a queue, or a group as a consumer group sees it."""

    name: bytes
    in_hands: bytes
    """The sorted set of the jobs that were handed out, by the milliseconds at which they are due again."""
    script: Script
    source: tuple[bytes, ...]
    """The keys that the script takes new work from."""
    wake_ups: bytes
    """The channel on which nodes hear that there may be work."""
    has_positions: bool

    @property
    def jobs(self) -> bytes:
        """The hash of their messages, and of how often they were handed out."""
        return jobs_beside(self.in_hands)

    def position(self, identity: bytes) -> str | None:
        """What a job is called in the history that it comes from."""
        return identity.decode() if self.has_positions else None

    async def take(self, life: Life, node: str, number: int, count: int, due: int, kept: int) -> Any:
        """The answer to a node's call ``number`` for jobs: see `_HAND_OUT`. May be a `hiredis.ReplyError`."""
        keys = [*self.source, self.in_hands, self.jobs, b"%b, last by %b" % (self.in_hands, node.encode())]
        return await self.script.run(life.commands(self.name), keys, node, number, count, due, due + _DAY, kept)

    async def give_back(self, life: Life, unread: bool, identities: list[bytes]) -> Any:
        """Have others take these jobs at once. May be a `hiredis.ReplyError`."""
        keys = [self.in_hands, self.jobs]
        wire = life.commands(self.name)
        return await GIVE_BACK.run(wire, keys, int(unread), life.publish_verb, self.wake_ups, *identities)

    def acknowledge(self, life: Life, identity: bytes, by_hash: bool) -> asyncio.Future[Any]:
        """End a job; the future may give a `hiredis.ReplyError`. Raises `ListenerClosed`.

        By its hash the server may not know the script: see `is_unknown`.
        """
        call = ACKNOWLEDGE.call if by_hash else ACKNOWLEDGE.call_with_text
        return life.commands(self.name).ask(call([self.in_hands, self.jobs], identity))


def jobs_beside(in_hands: bytes) -> bytes:
    """The key of `Place.jobs`."""
    return in_hands + b", jobs"


def queue_place(queue: bytes) -> Place:
    """A queue."""
    return Place(queue, beside(queue, "in hands"), TAKE_FROM_QUEUE, (queue,), wake_ups(queue), False)


class ConsumerGroups:
    """The consumer groups of groups that have a history."""

    def __init__(self, history: History) -> None:
        self._take = history.script(KEEP_PLACE + NOW + OURS + _NEW_OF_GROUP + _HAND_OUT)
        self._join = history.script(KEEP_PLACE + _JOIN)

    def place(self, group: bytes, name: str) -> Place:
        """One consumer group."""
        source = last_position(group), stream(group), _cursor(group, name)
        in_hands = beside(group, f"in hands of {quote(name)}")
        return Place(group, in_hands, self._take, source, in_hands, True)

    async def join(self, life: Life, group: bytes, name: str) -> None:
        """Have the consumer group begin with what is published from now on, if it has not begun yet."""
        keys = [last_position(group), stream(group), _cursor(group, name)]
        checked(life, await self._join.run(life.commands(group), keys))


def _cursor(group: bytes, name: str) -> bytes:
    """The position up to which a consumer group has taken."""
    return beside(group, f"reached by {quote(name)}")


_NEW_OF_QUEUE = """
local missed = 0
local function new(most)
  local found = {}
  if most == 0 then return found end
  ours('LLEN', KEYS[1])
  for _ = 1, redis.call('LLEN', KEYS[1]) do
    if #found == most then break end
    local message = redis.call('LPOP', KEYS[1])
    if (tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0) > now then
      found[#found + 1] = {ARGV[1] .. '-' .. ARGV[2] .. '-' .. #found, string.sub(message, 14)}
    end
  end
  return found
end
"""

# Each frame names the one before it, so a hole shows, and so does an end that is not the end of the history.
_NEW_OF_GROUP = """
local missed, cursor, reached = 0, redis.pcall('GET', KEYS[3]), nil
if type(cursor) == 'string' and string.sub(cursor, 1, 9) == epoch then
  reached = string.match(cursor, '^%d+%-%d+$', 10)
end
local function new(most)
  local found = {}
  if most == 0 then return found end
  if not reached then missed = 1 end
  ours('XLEN', KEYS[2])
  local foreign
  repeat
    foreign = false
    local start, count = reached and '(' .. reached or '-', most - #found
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', count)) do
      local previous, message = string.match(entry[2][2], '^(%d+%-%d+)\\n()')
      if previous then
        if previous ~= reached then missed = 1 end
        reached = entry[1]
        found[#found + 1] = {epoch .. reached, string.sub(entry[2][2], message)}
      else
        foreign = true
        redis.call('XDEL', KEYS[2], entry[1])
      end
    end
  until not foreign
  if #found < most and reached ~= before then
    missed = 1
    reached = before
  end
  redis.call('SET', KEYS[3], epoch .. reached, 'PX', REMEMBER)
  return found
end
"""

_HAND_OUT = """
-- KEYS: the source's, and these three. ARGV: node, number of its call, how many, ms until they are due again, ms to
-- keep what nobody asks for, ms to keep the answer.
-- Whether work was lost before anybody had it, ms until something is due, and of each job: identity, how often it was
-- handed out, message. The same number again, after an answer was lost, gives the same jobs again.
local in_hands, jobs, box = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
-- While a cluster moves the slot, a key that is gone cannot be touched again: so nothing is emptied and then filled.
local count, patience = tonumber(ARGV[3]), tonumber(ARGV[4])
local identities, orphans = {}, {}
ours('ZCARD', in_hands)
ours('HLEN', jobs)
if redis.pcall('LINDEX', box, 0) == ARGV[2] then
  identities = redis.call('LRANGE', box, 1, -1)
else
  ours('LLEN', box)
  for _, identity in ipairs(redis.call('ZRANGEBYSCORE', in_hands, '-inf', now, 'LIMIT', 0, count)) do
    if redis.call('HEXISTS', jobs, identity) == 1 then
      identities[#identities + 1] = identity
    else
      orphans[#orphans + 1] = identity
    end
  end
  for _, job in ipairs(new(count - #identities)) do
    redis.call('HSET', jobs, job[1], job[2])
    identities[#identities + 1] = job[1]
  end
  for _, identity in ipairs(identities) do
    if type(redis.pcall('HINCRBY', jobs, '#' .. identity, 1)) == 'table' then
      redis.call('HSET', jobs, '#' .. identity, 1)
    end
    redis.call('ZADD', in_hands, now + patience, identity)
  end
  if #identities > 0 then
    redis.call('RPUSH', box, ARGV[2], unpack(identities))
    redis.call('LTRIM', box, -1 - #identities, -1)
    redis.call('PEXPIRE', box, ARGV[6])
  else
    redis.call('DEL', box)
  end
  redis.call('PEXPIRE', in_hands, ARGV[5])
  redis.call('PEXPIRE', jobs, ARGV[5])
end
local first = redis.call('ZRANGE', in_hands, 0, 0, 'WITHSCORES')
local reply = {missed, first[2] and math.min(patience, math.max(first[2] - now, 0)) or patience}
for _, identity in ipairs(identities) do
  local message = redis.call('HGET', jobs, identity)
  if message then
    reply[#reply + 1] = {identity, redis.call('HGET', jobs, '#' .. identity), message}
  end
end
for _, identity in ipairs(orphans) do redis.call('ZREM', in_hands, identity) end
return reply
"""

_JOIN = """
-- KEYS: and the position reached by the consumer group.
redis.call('SET', KEYS[3], last, 'NX', 'PX', REMEMBER)
return 1
"""

TAKE_FROM_QUEUE = Script(OURS + NOW + _NEW_OF_QUEUE + _HAND_OUT)

ACKNOWLEDGE = Script(
    """
-- KEYS: in hands, jobs. ARGV: identity.
local done = {redis.pcall('ZREM', KEYS[1], ARGV[1]), redis.pcall('HDEL', KEYS[2], ARGV[1], '#' .. ARGV[1])}
for _, reply in ipairs(done) do
  -- Where somebody else's type is, nothing is in hands.
  if type(reply) == 'table' and not string.find(reply.err, 'WRONGTYPE', 1, true) then return reply end
end
return 1
"""
)

GIVE_BACK = Script(
    """
-- KEYS: in hands, jobs. ARGV: 1 if nobody has seen them, publishing verb, wake-up channel, identities.
for index = 4, #ARGV do
  if redis.call('ZADD', KEYS[1], 'XX', 'CH', 0, ARGV[index]) == 1 and ARGV[1] == '1' then
    redis.call('HINCRBY', KEYS[2], '#' .. ARGV[index], -1)
  end
end
redis.call(ARGV[2], ARGV[3], '')
return 1
"""
)
