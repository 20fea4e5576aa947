-- Deliver work to a node: first what is due again, then what is new.
-- Expects now.lua, drop_foreign_type.lua, streams_new_from_queue.lua or streams_new_from_group.lua, and behind their
-- KEYS: 1 the pending work, a sorted set: id -> ms at which it is visible to other nodes again
--       2 its contents, a hash: id -> message, '#id' -> number of deliveries
--       3 what this node was delivered last, a list: sequence number of the call, ids.
-- ARGV: 1 see the library, node, sequence number of this call, how many, ms for which they are invisible to others,
--       ms to keep what no node asks for, ms to keep what this node was delivered.
-- Returns whether entries were lost before they were delivered, ms until work may be visible, and of each delivery
-- {id, number of deliveries, message}. The same number again, after a reply was lost, delivers the same again.
local pending, contents, inflight = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
-- While a cluster moves the slot, a key that is gone cannot be touched again: so nothing is emptied and then filled.
local count, timeout = tonumber(ARGV[4]), tonumber(ARGV[5])
local ids, orphans = {}, {}
drop_foreign_type('ZCARD', pending)
drop_foreign_type('HLEN', contents)
if redis.pcall('LINDEX', inflight, 0) == ARGV[3] then
  ids = redis.call('LRANGE', inflight, 1, -1)
else
  drop_foreign_type('LLEN', inflight)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', pending, '-inf', now, 'LIMIT', 0, count)) do
    if redis.call('HEXISTS', contents, id) == 1 then
      ids[#ids + 1] = id
    else
      orphans[#orphans + 1] = id
    end
  end
  for _, new in ipairs(take_new(count - #ids)) do
    redis.call('HSET', contents, new[1], new[2])
    ids[#ids + 1] = new[1]
  end
  for _, id in ipairs(ids) do
    if type(redis.pcall('HINCRBY', contents, '#' .. id, 1)) == 'table' then
      redis.call('HSET', contents, '#' .. id, 1)
    end
    redis.call('ZADD', pending, now + timeout, id)
  end
  if #ids > 0 then
    redis.call('RPUSH', inflight, ARGV[3], unpack(ids))
    redis.call('LTRIM', inflight, -1 - #ids, -1)
    redis.call('PEXPIRE', inflight, ARGV[7])
  else
    redis.call('DEL', inflight)
  end
  redis.call('PEXPIRE', pending, ARGV[6])
  redis.call('PEXPIRE', contents, ARGV[6])
end
local first = redis.call('ZRANGE', pending, 0, 0, 'WITHSCORES')
local reply = {lost, first[2] and math.min(timeout, math.max(first[2] - now, 0)) or timeout}
for _, id in ipairs(ids) do
  local message = redis.call('HGET', contents, id)
  if message then
    reply[#reply + 1] = {id, redis.call('HGET', contents, '#' .. id), message}
  end
end
for _, id in ipairs(orphans) do redis.call('ZREM', pending, id) end
return reply
