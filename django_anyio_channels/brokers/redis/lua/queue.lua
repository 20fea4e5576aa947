-- Library of the scripts of one queue. Expects `now`, and
-- KEYS: 1 the queue, a list of messages, each after 13 digits of milliseconds at which it expires
--       2 the waiting nodes, a list of 'node number', the longest waiting first
--       3 what is in flight, a hash: 'node' -> 'number count expires', 'node index' -> message. `number` is that of the
--         node's last call; with no message that call still waits. `expires` is in milliseconds.
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

-- Hand a message to the node that has waited longest. It must still wait in that call, and be subscribed.
local function hand_over(message, publish_command, channel_prefix)
  -- Not what PUBLISH returns: that counts the subscribers of patterns, such as a monitor.
  local count_command = publish_command == 'SPUBLISH' and 'SHARDNUMSUB' or 'NUMSUB'
  while length(waiting) > 0 do
    local node, waits_in = string.match(redis.call('LPOP', waiting), '^(%w+) (%d+)$')
    if node then
      local number, count, expires = load_call(node)
      local channel = channel_prefix .. node
      if number == waits_in and count == 0 and redis.call('PUBSUB', count_command, channel)[2] > 0 then
        redis.call('HSET', inflight, node, number .. ' 1 ' .. expires, node .. ' 1', message)
        redis.call(publish_command, channel, number .. ' ' .. message)
        return true
      end
    end
  end
  return false
end
