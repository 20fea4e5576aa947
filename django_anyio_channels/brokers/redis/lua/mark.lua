-- Mark that groups of a scope may have bindings.
-- KEYS: the mark.
-- ARGV: `bound`, or `announced` when every node knows it, and for how many ms at least.
local left = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', math.max(left, tonumber(ARGV[2]))))
return 1
