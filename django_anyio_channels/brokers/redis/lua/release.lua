-- Return messages that no reader took to the head of their queue, or hand them to nodes that wait.
-- KEYS: as in queue.lua, and the sequence number under which this node returned messages last.
-- ARGV: sequence number of this call, ms to remember it, publishing command, the two channels as in put.lua, messages
--       with their expiry, the oldest first.
-- Returns 1, or 0 if this number was done before: nothing was changed then.
local released = KEYS[4]
if redis.pcall('GET', released) == ARGV[1] then return 0 end
-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
redis.call('PEXPIRE', released, ARGV[2])
redis.call('SET', released, ARGV[1], 'PX', ARGV[2])
length(queue)
local next = 6
while next <= #ARGV and hand_over(ARGV[next], ARGV[3], ARGV[5]) do next = next + 1 end
for index = #ARGV, next, -1 do
  push_back(ARGV[index])
end
if next <= #ARGV then redis.call(ARGV[3], ARGV[4], '') end
return 1
