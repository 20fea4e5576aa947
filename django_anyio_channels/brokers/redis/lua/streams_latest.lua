-- Read the last entries of a group's history. Expects drop_foreign_type.lua, streams_load_position.lua.
-- KEYS: as there.
-- ARGV: how many at most.
-- Returns the entries as they were published, the oldest first.
drop_foreign_type('XLEN', KEYS[2])
local entries = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[1])
local reply = {}
for index = #entries, 1, -1 do reply[#reply + 1] = epoch .. entries[index][1] .. ' ' .. entries[index][2][2] end
return reply
