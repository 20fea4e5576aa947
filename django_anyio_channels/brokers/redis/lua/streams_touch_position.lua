-- Library. Keeps the position of streams_load_position.lua from now on, and gives the group one that has none.
-- KEYS: as there.
-- ARGV: 1 for how many ms.
begin_epoch()
-- First what takes no memory: a server that has none left lets a script go on that has begun to write.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[1], last, 'PX', ARGV[1])
