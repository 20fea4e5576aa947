-- Mark that groups of a scope may have bindings, for twice as long as one lasts, so that this happens seldom.
-- KEYS: the mark.
-- ARGV: `bound`, or `announced` when every node knows it; the lifetime of a binding in ms.
-- Returns 0 if every node knows it already for that time, otherwise 1.
local left, lifetime = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if ARGV[1] == 'bound' and left >= lifetime and redis.pcall('GET', KEYS[1]) == 'announced' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', math.max(left, 2 * lifetime)))
return 1
