-- Library. Defines take_new(count), which moves a consumer group's cursor over up to so many entries of a history and
-- returns {id, message} of each; `lost` is 1 if entries were trimmed before the consumer group took them.
-- Expects streams_load_position.lua, drop_foreign_type.lua.
-- KEYS: 3 the cursor: the position up to which the consumer group has taken.
-- ARGV: 1 ms to keep the cursor.
-- Each entry names the one before it, so a hole shows, and so does an end that is not the end of the history.
local lost, cursor, reached = 0, redis.pcall('GET', KEYS[3]), nil
if type(cursor) == 'string' and #cursor < 33 and string.sub(cursor, 1, 9) == epoch then
  reached = string.match(cursor, '^%d+%-%d+$', 10)
  -- No stream takes a larger id, and nobody but a forger writes one.
  if reached and string.find(reached, '-', 1, true) > 14 then reached = nil end
end
local function take_new(count)
  local found = {}
  if count == 0 then return found end
  if not reached then lost = 1 end
  drop_foreign_type('XLEN', KEYS[2])
  local foreign
  repeat
    foreign = false
    local start = reached and '(' .. reached or '-'
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', count - #found)) do
      local previous_id, message = string.match(entry[2][2], '^(%d+%-%d+)\n()')
      if previous_id then
        if previous_id ~= reached then lost = 1 end
        reached = entry[1]
        found[#found + 1] = {epoch .. reached, string.sub(entry[2][2], message)}
      else
        foreign = true
        redis.call('XDEL', KEYS[2], entry[1])
      end
    end
  until not foreign
  if #found < count and reached ~= last_id then
    lost = 1
    reached = last_id
  end
  redis.call('SET', KEYS[3], epoch .. reached, 'PX', ARGV[1])
  return found
end
