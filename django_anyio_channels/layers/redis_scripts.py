"""What must happen at once on the server: the Lua scripts, and the names of the keys they work on.

A queue is a list of its own name. Each element begins with the time at which it expires, 13 digits of milliseconds on
the server's clock. A script touches the keys of one queue or one group only, so that a cluster can run it.
"""

from __future__ import annotations

import re
from hashlib import sha1
from typing import Any

import hiredis

from .redis_wire import Wire, pack

STAMP = 13


def beside(name: bytes, what: str) -> bytes:
    """The key of something that belongs to a group or a queue, in the same slot of a cluster."""
    opened = name.find(b"{")
    tagged = opened >= 0 and name.find(b"}", opened + 1) > opened + 1
    return (name if tagged else b"{%b}" % name) + b"|" + what.encode()


def wake_ups(queue: bytes) -> bytes:
    """The channel on which nodes hear that an empty queue has a message."""
    return beside(queue, "messages")


def bindings(group: bytes) -> bytes:
    """The hash of the queues that a group's messages are put into too."""
    return beside(group, "queues")


def bound_groups(queue: bytes) -> bytes:
    """The set of groups that a queue is bound to."""
    return beside(queue, "groups")


def queue_of_bound_groups(key: bytes) -> bytes | None:
    """Undo `bound_groups`; None for a key of another kind."""
    name, separator, what = key.rpartition(b"|")
    if what != b"groups" or not separator:
        return None
    inner = name[1:-1]
    return inner if bound_groups(inner) == key else name


def in_flight(queue: bytes, node: str) -> bytes:
    """What a node was handed last and has not said it got: the number of its call and the messages."""
    return beside(queue, f"in flight to {node}")


_TERMS = re.compile(rb"[0-9]{1,15} [0-9]{1,15} [0-9]{1,15}")


def is_terms(value: bytes) -> bool:
    """Whether this is what `BIND` writes about a queue: capacity, expiry in ms, and when the binding ends in ms."""
    return _TERMS.fullmatch(value) is not None


class Script:
    """One Lua script."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._hash = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, wire: Wire, keys: list[bytes], *arguments: bytes | str | int) -> Any:
        """Run it. The reply may be a `hiredis.ReplyError`."""
        reply = await wire.ask(self.call(keys, *arguments))
        if is_unknown(reply):
            reply = await wire.ask(self.call_with_text(keys, *arguments))
        return reply

    def call(self, keys: list[bytes], *arguments: bytes | str | int) -> bytes:
        """The packed command for a server that knows the script."""
        return pack("EVALSHA", self._hash, len(keys), *keys, *arguments)

    def call_with_text(self, keys: list[bytes], *arguments: bytes | str | int) -> bytes:
        """The packed command for one that does not, see `is_unknown`; it knows it from then on."""
        return pack("EVAL", self._text, len(keys), *keys, *arguments)


def is_unknown(reply: Any) -> bool:
    """Whether a server does not know the script that was called."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local queue = KEYS[1]
local function ends(message)
  return tonumber(string.sub(message, 1, 13)) or 0
end
local function length()
  local waiting = redis.pcall('LLEN', queue)
  if type(waiting) == 'table' then  -- not ours: somebody else's type on our key
    redis.call('DEL', queue)
    waiting = 0
  end
  return waiting
end
local function keep_for(milliseconds)
  if redis.call('PTTL', queue) < milliseconds then redis.call('PEXPIRE', queue, milliseconds) end
end
"""

PUT = Script(
    _NOW
    + """
-- KEYS: queue. ARGV: message, capacity, expiry in ms, ms when the binding ends or 0, verb and channel of the wake-ups.
-- 1: done; 0: full, or the binding has ended.
if tonumber(ARGV[4]) > 0 and tonumber(ARGV[4]) <= now then return 0 end
local waiting, capacity = length(), tonumber(ARGV[2])
while waiting >= capacity do
  local oldest = redis.call('LINDEX', queue, 0)
  if not oldest or ends(oldest) > now then return 0 end
  redis.call('LPOP', queue)
  waiting = waiting - 1
end
redis.call('RPUSH', queue, string.format('%013.0f', now + ARGV[3]) .. ARGV[1])
keep_for(tonumber(ARGV[3]))
if waiting == 0 then redis.call(ARGV[5], ARGV[6], '') end
return 1
"""
)

TAKE = Script(
    _NOW
    + """
-- KEYS: queue, what is in flight to this node. ARGV: how many, number of this call, ms to keep what is in flight.
-- The messages with their stamps. The same number again, after an answer was lost, gives the same messages again.
if redis.call('LINDEX', KEYS[2], 0) == ARGV[2] then return redis.call('LRANGE', KEYS[2], 1, -1) end
redis.call('DEL', KEYS[2])
local taken, count = {}, tonumber(ARGV[1])
if length() > 0 then
  while #taken < count do
    local message = redis.call('LPOP', queue)
    if not message then break end
    if ends(message) > now then taken[#taken + 1] = message end
  end
end
if #taken > 0 then
  redis.call('RPUSH', KEYS[2], ARGV[2], unpack(taken))
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return taken
"""
)

GIVE_BACK = Script(
    _NOW
    + """
-- KEYS: queue. ARGV: verb and channel of the wake-ups, messages with their stamps, the oldest first.
local waiting = length()
for index = #ARGV, 3, -1 do
  redis.call('LPUSH', queue, ARGV[index])
  keep_for(math.max(ends(ARGV[index]) - now, 1))
end
if waiting == 0 then redis.call(ARGV[1], ARGV[2], '') end
return 1
"""
)

BIND = Script(
    _NOW
    + """
-- KEYS: a group's bindings. ARGV: queue, capacity, expiry in ms, lifetime in ms.
local bound = redis.pcall('HGETALL', KEYS[1])
if bound.err then
  redis.call('DEL', KEYS[1])
  bound = {}
end
for index = 1, #bound, 2 do
  local _, _, last = string.find(bound[index + 1], ' (%d+)$')
  if not last or tonumber(last) <= now then redis.call('HDEL', KEYS[1], bound[index]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %s %.0f', ARGV[2], ARGV[3], now + ARGV[4]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)
