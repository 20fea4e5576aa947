-- Append a message to a queue, or hand it to a node that waits.
-- KEYS: as in queue.lua, and 4, if the message has an idempotency key: what is remembered of it.
-- ARGV: message, capacity, expiry in ms, publishing command, channel on which nodes are notified, prefix of the channels
--       on which nodes are handed messages, ms to remember the idempotency key.
-- Returns 1, also if a message was put under the idempotency key before, or 0 if the queue is full: nothing was changed
-- then.
local function accepted()
  if KEYS[4] then redis.call('SET', KEYS[4], '1', 'PX', ARGV[7]) end
  return 1
end
if KEYS[4] and type(redis.pcall('GET', KEYS[4])) == 'string' then return 1 end
local capacity, expiry = tonumber(ARGV[2]), tonumber(ARGV[3])
local message = string.format('%013.0f', now + expiry) .. ARGV[1]
-- What is in the queue was there before.
if length(queue) == 0 and hand_over(message, ARGV[4], ARGV[6]) then return accepted() end
local entries = redis.call('RPUSH', queue, message)
while entries > capacity do
  if expiry_of(redis.call('LINDEX', queue, 0)) > now then
    redis.call('RPOP', queue)
    return 0
  end
  redis.call('LPOP', queue)
  entries = entries - 1
end
keep_queue(expiry)
if entries == 1 then redis.call(ARGV[4], ARGV[5], '') end
return accepted()
