-- Look at a queue without changing it. Expects now.lua.
-- KEYS: the queue, see queue.lua.
-- Returns how many messages wait, and ms until the oldest of them expires or -1. A foreign type counts as empty.
local length, expired, left = redis.pcall('LLEN', KEYS[1]), 0, -1
if type(length) == 'table' then length = 0 end
-- The first ones may have expired: who puts or takes next drops them.
while expired < length and left < 0 do
  local message = redis.call('LINDEX', KEYS[1], expired)
  local expires = tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0
  if expires > now then left = expires - now else expired = expired + 1 end
end
return {length - expired, left}
