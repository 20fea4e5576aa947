-- Take messages from a queue, or wait for one.
-- KEYS: as in queue.lua.
-- ARGV: node, sequence number of this call, how many messages (1 to 100, or 0), ms to keep what is in flight, 1 to wait
--       for the next message if there is none.
-- Returns the messages, each after its expiry. The same number again, after a reply was lost, returns the same messages.
local node, number, wanted, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local entry = node .. ' ' .. number
-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
redis.call('PEXPIRE', inflight, ttl)
local last, count = load_call(node)
if last == number then
  if count > 0 then
    local again = {}
    for index = 1, count do
      local message = redis.call('HGET', inflight, node .. ' ' .. index)
      if message then again[#again + 1] = message end
    end
    return again
  end
  if length(waiting) > 0 then redis.call('LREM', waiting, 0, entry) end
end
local taken, available = {}, length(queue)
while wanted > 0 and #taken == 0 and available > 0 do
  local popped = redis.call('LPOP', queue, wanted)
  available = available - #popped
  for _, message in ipairs(popped) do
    if expiry_of(message) > now then taken[#taken + 1] = message end
  end
end
if #taken > 0 or ARGV[5] == '1' then
  local fields = {node, string.format('%s %d %.0f', number, #taken, now + ttl)}
  for index, message in ipairs(taken) do
    fields[#fields + 1] = node .. ' ' .. index
    fields[#fields + 1] = message
  end
  redis.call('HSET', inflight, unpack(fields))
  redis.call('PEXPIRE', inflight, ttl)
  if #taken == 0 then
    length(waiting)
    redis.call('RPUSH', waiting, entry)
    redis.call('PEXPIRE', waiting, ttl)
  end
elseif last then
  redis.call('HDEL', inflight, node)
end
if last then
  for index = #taken + 1, count do redis.call('HDEL', inflight, node .. ' ' .. index) end
end
if not last or tonumber(number) % 100 == 0 then
  -- A node that is new here, and each one now and then, looks for those that are gone: no field expires by itself.
  for _, field in ipairs(redis.call('HKEYS', inflight)) do
    if not load_call(string.match(field, '^%S*')) then redis.call('HDEL', inflight, field) end
  end
end
return taken
