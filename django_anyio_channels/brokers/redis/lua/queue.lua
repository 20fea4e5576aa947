-- Library of the scripts of one queue. Expects `now`, and
-- KEYS: 1 the queue, a list of messages, each after 13 digits of milliseconds at which it expires
--       2 the waiting nodes, a list of 'node number', the longest waiting first
--       3 what is in flight, a hash: 'node' -> 'number count expires', 'node index' -> message. `number` is that of the
--         node's last call; with no message that call still waits. `expires` is in milliseconds.
--         What a node has prefetched for readers to come: 'node ahead' -> 'number count until', and
--         'node number/index' -> message, which the node deletes before a reader gets it. `until`, in milliseconds, it
--         may do so; then ' late' is appended, with a later `until`, after which the messages are for others.
--         'ahead' exists where there is any of that: the earliest `until`, or a time before it.
-- Another program may have written to any of them. A cluster that moves the slot refuses a key that the script itself
-- has emptied: so nothing is emptied and then filled.
local queue, waiting, inflight = KEYS[1], KEYS[2], KEYS[3]

-- When a message expires; 0 for a foreign one. Lua would take 'inf' and '0x1p999' for numbers.
local function expiry_of(message)
  return tonumber(string.match(message, '^' .. string.rep('%d', 13))) or 0
end

-- The length of a list, 0 after a foreign type was deleted.
local function length(key)
  local entries = redis.pcall('LLEN', key)
  if type(entries) == 'table' then
    redis.call('DEL', key)
    return 0
  end
  return entries
end

-- Keep the queue for this time at least. Twice as long, so that it is seldom prolonged.
local function keep_queue(milliseconds)
  if redis.call('PTTL', queue) < milliseconds then redis.call('PEXPIRE', queue, 2 * milliseconds) end
end

-- Return a message to the head of the queue.
local function push_back(message)
  redis.call('LPUSH', queue, message)
  keep_queue(math.max(expiry_of(message) - now, 1))
end

-- The number of a node's last call, how many messages it was handed, and when that expires; nothing if that is over.
local function load_call(node)
  local call = redis.pcall('HGET', inflight, node)
  if type(call) == 'table' then
    redis.call('DEL', inflight)
    return
  end
  local number, count, expires = string.match(call or '', '^(%d+) (%d%d?%d?) (%d+)$')
  if number and tonumber(expires) > now then return number, tonumber(count), expires end
end

-- The node and number of an entry of `waiting`, and when its call expires. It must still wait in that call, and be
-- subscribed.
local function load_waiting(entry, publish_command, channel_prefix)
  -- Not what PUBLISH returns: that counts the subscribers of patterns, such as a monitor.
  local count_command = publish_command == 'SPUBLISH' and 'SHARDNUMSUB' or 'NUMSUB'
  local node, waits_in = string.match(entry, '^(%w+) (%d+)$')
  if node then
    local number, count, expires = load_call(node)
    local waits = number == waits_in and count == 0
    if waits and redis.call('PUBSUB', count_command, channel_prefix .. node)[2] > 0 then return node, number, expires end
  end
end

-- Hand a message to the node that has waited longest.
local function hand_over(message, publish_command, channel_prefix)
  while length(waiting) > 0 do
    local node, number, expires = load_waiting(redis.call('LPOP', waiting), publish_command, channel_prefix)
    if node then
      redis.call('HSET', inflight, node, number .. ' 1 ' .. expires, node .. ' 1', message)
      redis.call(publish_command, channel_prefix .. node, number .. ' ' .. message)
      return true
    end
  end
  return false
end
