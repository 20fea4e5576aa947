-- Put and remove records of presence. Expects now.lua.
-- KEYS: 1 the records of a name, a hash: key -> when it ends in ms (13 digits), content.
-- ARGV: ms to keep each record, pairs of key and content; an empty content removes the record.
local probe = redis.pcall('HGET', KEYS[1], '')
if type(probe) == 'table' and string.find(probe.err, 'WRONGTYPE', 1, true) then redis.call('DEL', KEYS[1]) end
local ends = string.format('%013.0f', now + ARGV[1])
local removed = {}
for index = 2, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    removed[#removed + 1] = ARGV[index]
  else
    redis.call('HSET', KEYS[1], ARGV[index], ends .. ARGV[index + 1])
  end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
-- Last, since a cluster that moves the slot gives no key back that was emptied. In parts: the stack of Lua is limited.
for first = 1, #removed, 1000 do
  redis.call('HDEL', KEYS[1], unpack(removed, first, math.min(first + 999, #removed)))
end
return 1
