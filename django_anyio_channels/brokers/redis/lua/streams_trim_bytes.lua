-- Library. Defines trim_bytes(id, bytes), called with an entry that was just added, which drops the oldest entries when
-- large ones take too many bytes. Small entries are bounded by their number, so they cost no accounting.
-- KEYS: 2 the group's history, 4 its large entries, a list of 'id before bytes': the bytes of all large ones
--       before this one, and its own. It need not be there if no entry is a large one.
-- ARGV: 4 ms to keep the list, 8 bytes that make an entry a large one, 9 bytes that large entries may take together.
local function trim_bytes(id, bytes)
  if bytes < tonumber(ARGV[8]) then return end
  local last = redis.pcall('LINDEX', KEYS[4], -1)
  if type(last) == 'table' then
    redis.call('DEL', KEYS[4])
    last = false
  end
  local last_total, last_bytes = string.match(last or '', '^%S+ (%d+) (%d+)$')
  local before = (last_total or 0) + (last_bytes or 0)
  local total = before + bytes
  redis.pcall('RPUSH', KEYS[4], string.format('%s %.0f %.0f', id, before, bytes))
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
  -- The last entry stays, however large it is.
  while redis.call('LLEN', KEYS[4]) > 1 do
    local oldest = redis.call('LINDEX', KEYS[4], 0)
    local oldest_id, oldest_before = string.match(oldest, '^(%d+%-%d+) (%d+) ')
    if oldest_id and total - oldest_before <= tonumber(ARGV[9]) then break end
    redis.call('LPOP', KEYS[4])
    if oldest_id then
      redis.call('XTRIM', KEYS[2], 'MINID', oldest_id)
      redis.call('XDEL', KEYS[2], oldest_id)
    end
  end
end
