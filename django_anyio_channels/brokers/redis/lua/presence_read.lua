-- Read the records of presence of a name, and remove those whose time is over. Expects now.lua.
-- KEYS: as in presence_put.lua.
-- Returns keys and contents, in turn.
local found, ended, digits = {}, {}, '^' .. string.rep('%d', 13)
local records = redis.pcall('HGETALL', KEYS[1])
if records.err then
  if not string.find(records.err, 'WRONGTYPE', 1, true) then return records end
  redis.call('DEL', KEYS[1])
  records = {}
end
for index = 1, #records, 2 do
  if (tonumber(string.match(records[index + 1], digits)) or 0) > now then
    found[#found + 1] = records[index]
    found[#found + 1] = string.sub(records[index + 1], 14)
  else
    ended[#ended + 1] = records[index]
  end
end
for first = 1, #ended, 1000 do
  redis.call('HDEL', KEYS[1], unpack(ended, first, math.min(first + 999, #ended)))
end
return found
