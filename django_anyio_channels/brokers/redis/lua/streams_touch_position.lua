-- Library. Has the position of streams_load_position.lua kept for ARGV[1] ms from now on.
-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[1], last, 'PX', ARGV[1])
