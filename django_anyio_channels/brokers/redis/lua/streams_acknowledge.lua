-- Acknowledge a delivery: it is pending no more.
-- KEYS: 1 and 2 of streams_deliver.lua.
-- ARGV: id.
local replies = {redis.pcall('ZREM', KEYS[1], ARGV[1]), redis.pcall('HDEL', KEYS[2], ARGV[1], '#' .. ARGV[1])}
for _, reply in ipairs(replies) do
  -- Where a foreign type is, nothing is pending.
  if type(reply) == 'table' and not string.find(reply.err, 'WRONGTYPE', 1, true) then return reply end
end
return 1
