-- Publish a message unless one was published under its idempotency key.
-- KEYS: what is remembered of the idempotency key: how many nodes received the message, or '' while that is not known.
-- ARGV: publishing command, channel, message, ms to remember the key.
-- Returns how many nodes received the first message, or the error that refused this one.
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' then return tonumber(known) or 0 end
-- First what takes memory: a server that has none left refuses it, and nothing is published then.
redis.call('SET', KEYS[1], '', 'PX', ARGV[4])
local receivers = redis.pcall(ARGV[1], ARGV[2], ARGV[3])
if type(receivers) == 'table' then
  redis.call('DEL', KEYS[1])
  return receivers
end
redis.call('SET', KEYS[1], receivers, 'KEEPTTL')
return receivers
