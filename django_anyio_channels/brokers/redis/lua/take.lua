-- Take messages from a queue, or wait for one.
-- KEYS: as in queue.lua.
-- ARGV: node, sequence number of this call, how many messages (1 to 100, or 0), ms to keep what is in flight, 1 to wait
--       for the next message if there is none, how many more to prefetch from a long queue (0 to 100), ms in which the
--       node gives those to readers, the number of the call in which it prefetched last, how many of those readers have,
--       publishing command, the two channels as in put.lua.
-- Returns the messages, each after its expiry, and before them, if some are prefetched, how many are not. The same number
-- again, after a reply was lost, returns the same messages. What the node prefetched before returns to the queue.
-- If there is nothing: an empty list, or ms after which to ask again, because another node has prefetched something.
local node, number, wanted, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local prefetch, limit = tonumber(ARGV[6]), now + ARGV[7]
local entry = node .. ' ' .. number

local function keep_inflight(milliseconds)
  redis.call('PEXPIRE', inflight, math.max(milliseconds, redis.call('PTTL', inflight)))
end

-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
keep_inflight(ttl)
local last, count = load_call(node)
local prefetched_by, prefetched = load_prefetched(node)
if last == number then
  if count > 0 then
    local again = {}
    for index = 1, count do
      local message = redis.call('HGET', inflight, node .. ' ' .. index)
      if message then again[#again + 1] = message end
    end
    if prefetched_by == number then
      table.insert(again, 1, #again)
      redis.call('HSET', inflight, node .. ' ahead', string.format('%s %d %.0f', number, prefetched, limit))
      for index = 1, prefetched do
        local message = redis.call('HGET', inflight, field_of(node, number, index))
        if message then again[#again + 1] = message end
      end
    end
    return again
  end
  if length(waiting) > 0 then redis.call('LREM', waiting, 0, entry) end
end
local available, returned, due = length(queue), 0, nil
if prefetched_by then
  returned = return_prefetched(node, prefetched_by == ARGV[8] and tonumber(ARGV[9]) or 0)
  available = available + returned
end
local looks_around = not last or tonumber(number) % 100 == 0
local ahead = load_ahead()
if ahead and (looks_around or available == 0 or ahead <= now) then
  local recovered
  recovered, due = recover(node)
  available, returned = available + recovered, returned + recovered
end
-- Half of what is left, and nothing where another node waits.
prefetch = math.max(0, math.min(prefetch, math.floor((available - wanted) / 2)))
local first_waiting = prefetch > 0 and length(waiting) > 0 and redis.call('LINDEX', waiting, 0)
if first_waiting and load_waiting(first_waiting, ARGV[10], ARGV[12]) then prefetch, first_waiting = 0, nil end
local taken, left = {}, available
while wanted > 0 and #taken == 0 and left > 0 do
  local popped = redis.call('LPOP', queue, wanted + prefetch)
  left = left - #popped
  for _, message in ipairs(popped) do
    if expiry_of(message) > now then taken[#taken + 1] = message end
  end
end
local direct = math.min(#taken, wanted)
prefetch = #taken - direct
local kept = {}
if #taken > 0 or ARGV[5] == '1' then
  local fields, longest = {node, string.format('%s %d %.0f', number, direct, now + ttl)}, ttl
  for index, message in ipairs(taken) do
    fields[#fields + 1] = index > direct and field_of(node, number, index - direct) or node .. ' ' .. index
    fields[#fields + 1] = message
    if index > direct then longest = math.max(longest, expiry_of(message) - now) end
  end
  if prefetch > 0 then
    kept = {[node .. ' ahead'] = true, ahead = true}
    fields[#fields + 1] = node .. ' ahead'
    fields[#fields + 1] = string.format('%s %d %.0f', number, prefetch, limit)
    ahead = load_ahead() or 0
    fields[#fields + 1] = 'ahead'
    fields[#fields + 1] = string.format('%.0f', ahead > now and math.min(ahead, limit) or limit)
  end
  redis.call('HSET', inflight, unpack(fields))
  keep_inflight(longest)
  if #taken == 0 then
    length(waiting)
    redis.call('RPUSH', waiting, entry)
    redis.call('PEXPIRE', waiting, ttl)
  elseif first_waiting then
    redis.call('LPOP', waiting) -- it waits no more, or cannot be notified
  end
elseif last then
  redis.call('HDEL', inflight, node)
end
if last then
  for index = direct + 1, count do redis.call('HDEL', inflight, node .. ' ' .. index) end
end
drop_fields(kept)
if looks_around then
  -- A node that is new here, and each one now and then, looks for those that are gone: no field expires by itself.
  for _, field in ipairs(redis.call('HKEYS', inflight)) do
    if not is_of_prefetched(field) and not load_call(string.match(field, '^%S*')) then
      redis.call('HDEL', inflight, field)
    end
  end
end
if returned > 0 and left > 0 then redis.call(ARGV[10], ARGV[11], '') end
if #taken > 0 then
  if prefetch > 0 then table.insert(taken, 1, direct) end
elseif wanted > 0 and due then
  redis.call(ARGV[10], ARGV[11], 'wanted')
  return due - now
end
return taken
