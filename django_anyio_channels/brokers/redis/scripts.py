"""What must happen at once on the server: the Lua scripts, and the names of the keys they work on.

A queue is a list of its own name. Each element begins with the time at which it expires, 13 digits of milliseconds on
the server's clock. A script touches the keys of one queue or one group only, so that a cluster can run it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha1
from typing import Any

import hiredis

from .connection import Speaker, pack
from .keys import decisive_part, slot_of, tag_in

STAMP = 13


@lru_cache(maxsize=10_000)
def beside(name: bytes, what: str) -> bytes:
    """The key of something that belongs to a group or a queue, in the same slot of a cluster."""
    tag = decisive_part(name)
    if tag == name:
        if name and b"}" not in name:
            return b"{%b}|%b" % (name, what.encode())
        tag = tag_in(slot_of(name))  # a brace within it would end a tag too soon
    elif name != b"{%b}" % tag:
        return b"%b|%b" % (name, what.encode())
    # The tilde keeps this apart from what is beside a name that begins so.
    return b"{%b}%b|~%b" % (tag, name, what.encode())


def owner(key: bytes) -> bytes:
    """What a key is `beside`; else the key itself."""
    name, _, what = key.rpartition(b"|")
    for candidate in (name[1:-1], name, name.partition(b"}")[2]):
        if beside(candidate, what.removeprefix(b"~").decode(errors="replace")) == key:
            return candidate
    return key


def is_about(key: bytes, start: bytes) -> bool:
    """Whether a key is a name that begins with ``start``, or something `beside` one."""
    return owner(key).startswith(start)


def wake_ups(queue: bytes) -> bytes:
    """The channel on which nodes hear that an empty queue has a message."""
    return beside(queue, "messages")


def bindings(group: bytes) -> bytes:
    """The hash of the queues that a group's messages are put into too."""
    return beside(group, "queues")


@lru_cache(maxsize=1000)
def look_up_bindings(group: bytes) -> bytes:
    """The packed command that asks for `bindings`."""
    return pack("HGETALL", bindings(group))


def bound_groups(queue: bytes) -> bytes:
    """The set of groups that a queue is bound to."""
    return beside(queue, "groups")


def queue_of_bound_groups(key: bytes) -> bytes | None:
    """Undo `bound_groups`; None for a key of another kind."""
    queue = owner(key)
    return queue if bound_groups(queue) == key else None


def root(queue: bytes) -> bytes:
    """What the names begin with that the scripts make for themselves."""
    return beside(queue, "")


def waiting(queue: bytes) -> bytes:
    """The list of the nodes that wait for the next message, each with the number of its call."""
    return beside(queue, "waiting")


def in_flight(queue: bytes, node: str) -> bytes:
    """The list of what a node was handed last and has not said it got: the number of its call and the messages."""
    return beside(queue, f"in flight to {node}")


def pushes(queue: bytes, node: str) -> bytes:
    """The channel on which a node that waits is handed a message, after the number of its call and a space."""
    return beside(queue, f"for {node}")


def given_back(queue: bytes, node: str) -> bytes:
    """The number of the last messages that a node gave back."""
    return beside(queue, f"back from {node}")


_TERMS = re.compile(rb"[0-9]{1,15} [0-9]{1,15} [0-9]{1,15}")


def is_terms(value: bytes) -> bool:
    """Whether this is what `BIND` writes about a queue: capacity, expiry in ms, and when the binding ends in ms."""
    return _TERMS.fullmatch(value) is not None


class Script:
    """One Lua script."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._hash = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, wire: Speaker, keys: list[bytes], *arguments: bytes | str | int) -> Any:
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


OURS = """
-- Delete what somebody else has put there, of another type than the verb is for.
local function ours(verb, key)
  local reply = redis.pcall(verb, key)
  if type(reply) == 'table' and string.find(reply.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
end
"""

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_QUEUE = (
    NOW
    + """
local queue, waiting = KEYS[1], KEYS[2]
-- 0 for what is not ours; Lua would take 'inf' and '0x1p999' for numbers.
local function ends(message)
  return tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0
end
local function length(key)
  local entries = redis.pcall('LLEN', key)
  if type(entries) == 'table' then  -- not ours: somebody else's type on our key
    redis.call('DEL', key)
    entries = 0
  end
  return entries
end
-- Twice as long as need be, so that this happens seldom.
local function keep_for(milliseconds)
  if redis.call('PTTL', queue) < milliseconds then redis.call('PEXPIRE', queue, 2 * milliseconds) end
end
-- Hand a message to the node that has waited longest. It must still wait for that call, and be connected.
local function hand_over(message, verb, root)
  while length(waiting) > 0 do
    local node, number = string.match(redis.call('LPOP', waiting), '^(%w+) (%d+)$')
    local box = root .. 'in flight to ' .. (node or '')
    if node and redis.pcall('LINDEX', box, 0) == number and redis.call('LLEN', box) == 1 then
      redis.call('RPUSH', box, message)
      if redis.call(verb, root .. 'for ' .. node, number .. ' ' .. message) > 0 then return true end
      redis.call('RPOP', box)
    end
  end
  return false
end
"""
)

PUT = Script(
    _QUEUE
    + """
-- KEYS: queue, waiting. ARGV: message, capacity, expiry in ms, ms when the binding ends or 0, publishing verb, root.
-- 1: done, or nothing to do since the binding has ended; 0: full.
if tonumber(ARGV[4]) > 0 and tonumber(ARGV[4]) <= now then return 1 end
local capacity, expiry = tonumber(ARGV[2]), tonumber(ARGV[3])
local message = string.format('%013.0f', now + expiry) .. ARGV[1]
-- What waits was there before.
if length(queue) == 0 and hand_over(message, ARGV[5], ARGV[6]) then return 1 end
local entries = redis.call('RPUSH', queue, message)
while entries > capacity do
  if ends(redis.call('LINDEX', queue, 0)) > now then
    redis.call('RPOP', queue)
    return 0
  end
  redis.call('LPOP', queue)
  entries = entries - 1
end
keep_for(expiry)
if entries == 1 then redis.call(ARGV[5], ARGV[6] .. 'messages', '') end
return 1
"""
)

TAKE = Script(
    _QUEUE
    + """
-- KEYS: queue, waiting, what is in flight to this node. ARGV: node, how many, number of this call, ms to keep what is
-- in flight, 1 to be handed the next message if there is none.
-- The messages with their stamps. The same number again, after an answer was lost, gives the same messages again.
local box, number, entry = KEYS[3], ARGV[3], ARGV[1] .. ' ' .. ARGV[3]
local again = redis.pcall('LINDEX', box, 0) == number
if again and redis.call('LLEN', box) > 1 then return redis.call('LRANGE', box, 1, -1) end
redis.call('DEL', box)
if again and length(waiting) > 0 then redis.call('LREM', waiting, 0, entry) end
local taken, count = {}, tonumber(ARGV[2])
while count > 0 and #taken == 0 and length(queue) > 0 do
  for _, message in ipairs(redis.call('LPOP', queue, count)) do
    if ends(message) > now then taken[#taken + 1] = message end
  end
end
if #taken > 0 then
  redis.call('RPUSH', box, number, unpack(taken))
  redis.call('PEXPIRE', box, ARGV[4])
elseif ARGV[5] == '1' then
  redis.call('RPUSH', box, number)
  redis.call('PEXPIRE', box, ARGV[4])
  length(waiting)
  redis.call('RPUSH', waiting, entry)
  redis.call('PEXPIRE', waiting, ARGV[4])
end
return taken
"""
)

GIVE_BACK = Script(
    _QUEUE
    + """
-- KEYS: queue, waiting, what this node gave back last. ARGV: number of this call, ms to remember it, publishing verb,
-- root, messages with their stamps, the oldest first. The same number again does nothing.
if redis.pcall('GET', KEYS[3]) == ARGV[1] then return 0 end
redis.call('DEL', KEYS[3])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
length(queue)
local next = 5
while next <= #ARGV and hand_over(ARGV[next], ARGV[3], ARGV[4]) do next = next + 1 end
for index = #ARGV, next, -1 do
  redis.call('LPUSH', queue, ARGV[index])
  keep_for(math.max(ends(ARGV[index]) - now, 1))
end
if next <= #ARGV then redis.call(ARGV[3], ARGV[4] .. 'messages', '') end
return 1
"""
)

BIND = Script(
    NOW
    + """
-- KEYS: a group's bindings. ARGV: queue, capacity, expiry in ms, lifetime in ms.
local bound = redis.pcall('HGETALL', KEYS[1])
if bound.err then
  redis.call('DEL', KEYS[1])
  bound = {}
end
-- Before what has ended is taken away: a cluster that moves the slot gives no key back that was emptied.
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %s %.0f', ARGV[2], ARGV[3], now + ARGV[4]))
for index = 1, #bound, 2 do
  local _, _, last = string.find(bound[index + 1], ' (%d+)$')
  if bound[index] ~= ARGV[1] and (not last or tonumber(last) <= now) then redis.call('HDEL', KEYS[1], bound[index]) end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)
