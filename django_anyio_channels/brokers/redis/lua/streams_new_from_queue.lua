-- Library. Defines take_new(count), which removes up to so many messages from a queue and returns {id, message} of
-- each; nothing is `lost`. Expects now.lua, drop_foreign_type.lua, and ARGV[2] and ARGV[3] of streams_deliver.lua.
-- KEYS: 1 the queue, see queue.lua.
local lost = 0
local function take_new(count)
  local found = {}
  if count == 0 then return found end
  drop_foreign_type('LLEN', KEYS[1])
  for _ = 1, redis.call('LLEN', KEYS[1]) do
    if #found == count then break end
    local message = redis.call('LPOP', KEYS[1])
    if (tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0) > now then
      found[#found + 1] = {ARGV[2] .. '-' .. ARGV[3] .. '-' .. #found, string.sub(message, 14)}
    end
  end
  return found
end
