-- Bind a queue to a group, and remove the bindings that have ended.
-- KEYS: the group's bindings, a hash: queue -> 'capacity expiry end', the last two in ms.
-- ARGV: queue, capacity, expiry in ms, lifetime of the binding in ms.
local bound = redis.pcall('HGETALL', KEYS[1])
if bound.err then
  redis.call('DEL', KEYS[1])
  bound = {}
end
-- First, since a cluster that moves the slot gives no key back that was emptied.
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %s %.0f', ARGV[2], ARGV[3], now + ARGV[4]))
for index = 1, #bound, 2 do
  local last = string.match(bound[index + 1], ' (%d+)$')
  if bound[index] ~= ARGV[1] and (not last or tonumber(last) <= now) then redis.call('HDEL', KEYS[1], bound[index]) end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
