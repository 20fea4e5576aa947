-- Read a page of a group's history. Expects drop_foreign_type.lua, streams_load_position.lua.
-- KEYS: as there.
-- ARGV: ms to keep the position (see streams_touch_position.lua), the position after which to read or nothing, how many
--       entries at most.
-- Returns the position of the last message, and the entries as they were published, the oldest first.
local reply = {last}
if ARGV[2] ~= last and string.sub(ARGV[2], 1, 9) == epoch then
  drop_foreign_type('XLEN', KEYS[2])
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. string.sub(ARGV[2], 10), '+', 'COUNT', ARGV[3])) do
    reply[#reply + 1] = epoch .. entry[1] .. ' ' .. entry[2][2]
  end
end
return reply
