-- Note that a queue is bound to a group, and forget the groups whose bindings have ended.
-- KEYS: the groups of the queue, a sorted set by the end of their bindings in ms.
-- ARGV: group, lifetime of the binding in ms.
local function add() return redis.pcall('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1]) end
-- First, since a cluster that moves the slot gives no key back that was emptied.
if type(add()) == 'table' then
  redis.call('DEL', KEYS[1])
  add()
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
