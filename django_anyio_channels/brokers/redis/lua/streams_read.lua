-- Read a page of a group's history. Expects drop_foreign_type.lua, streams_load_position.lua.
-- KEYS: as there.
-- ARGV: ms to keep the position, the position after which to read or nothing, how many entries at most.
-- Returns the position of the last message, and the entries as they were published, the oldest first.
-- A group that nothing was published to takes no memory, however many nodes subscribe to it.
local reply = {last}
if known then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
if ARGV[2] ~= last and string.sub(ARGV[2], 1, 9) == epoch then
  drop_foreign_type('XLEN', KEYS[2])
  local entries = redis.pcall('XRANGE', KEYS[2], '(' .. string.sub(ARGV[2], 10), '+', 'COUNT', ARGV[3])
  if entries.err and not string.find(entries.err, ' ID', 1, true) then return entries end
  -- Nothing comes after an id that none can be: it was forged.
  for _, entry in ipairs(entries) do
    reply[#reply + 1] = epoch .. entry[1] .. ' ' .. entry[2][2]
  end
end
return reply
