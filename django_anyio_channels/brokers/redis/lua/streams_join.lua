-- Have a consumer group begin after a group's last message, unless it has begun. Expects streams_load_position.lua.
-- KEYS: 3 the position up to which the consumer group has taken.
-- ARGV: ms to keep the position.
redis.call('SET', KEYS[3], last, 'NX', 'PX', ARGV[1])
return 1
