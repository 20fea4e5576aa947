-- Make deliveries visible to other nodes at once.
-- KEYS: 1 and 2 of streams_deliver.lua.
-- ARGV: 1 if no consumer has received them, publishing command, channel on which nodes are notified, ids.
for index = 4, #ARGV do
  if redis.call('ZADD', KEYS[1], 'XX', 'CH', 0, ARGV[index]) == 1 and ARGV[1] == '1' then
    redis.call('HINCRBY', KEYS[2], '#' .. ARGV[index], -1)
  end
end
redis.call(ARGV[2], ARGV[3], '')
return 1
