-- Look at a queue without changing it. Expects now.lua.
-- KEYS: 1 the queue, see queue.lua
--       2 its pending jobs, see streams_deliver.lua.
-- Returns how many messages wait, ms until the oldest of them expires or -1, and how many jobs are pending.
-- A foreign type counts as empty, and so does what the user has no right to.
local function number(reply) return type(reply) == 'number' and reply or 0 end
local length, expired, left = number(redis.pcall('LLEN', KEYS[1])), 0, -1
-- The first ones may have expired: who puts or takes next drops them.
while expired < length and left < 0 do
  local message = redis.call('LINDEX', KEYS[1], expired)
  local expires = tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0
  if expires > now then left = expires - now else expired = expired + 1 end
end
return {length - expired, left, number(redis.pcall('ZCARD', KEYS[2]))}
