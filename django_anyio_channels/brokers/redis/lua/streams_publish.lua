-- Keep messages in a group's history and publish them, each at once, in their order.
-- Expects streams_load_position.lua, streams_trim_bytes.lua, and
-- KEYS: 3 the queues that are bound to the group, a hash; without it there are none. 5, if there is one message and it
--       has an idempotency key: what is remembered of it, 'receivers position'.
-- ARGV: ms to keep the position, messages to keep, ms to keep them, ms to keep the history with an allowance, how many
--       digits of an id are the same during that allowance, publishing command, channel, 8 and 9 see the library,
--       messages; with an idempotency key also ms to remember it.
-- Returns the bindings as HGETALL does, and of each message: {receivers, position}, or the error that refused it. Of a
-- message whose idempotency key is known it returns what is remembered.
local reply = {KEYS[3] and redis.pcall('HGETALL', KEYS[3]) or {}}
local last_message = #ARGV
if KEYS[5] then
  last_message = 10
  local known = redis.pcall('GET', KEYS[5])
  local receivers, position = string.match(type(known) == 'string' and known or '', '^(%d+) (%x+%-%d+%-%d+)$')
  if position then
    reply[2] = {tonumber(receivers), position}
    return reply
  end
end
begin_epoch()
local first_id = last_id
for index = 10, last_message do
  local entry = last_id .. '\n' .. ARGV[index]
  local id = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', '', entry)
  -- Another program may have written there: another type, or an entry of the end of time.
  if id.err and (string.find(id.err, 'WRONGTYPE', 1, true) or string.find(id.err, ' ID', 1, true)) then
    redis.call('DEL', KEYS[2])
    id = redis.pcall('XADD', KEYS[2], '*', '', entry)
  end
  local outcome = id
  if not id.err then
    local position = epoch .. id
    outcome = redis.pcall(ARGV[6], ARGV[7], position .. ' ' .. entry)
    if type(outcome) == 'table' then
      redis.call('XDEL', KEYS[2], id)
    else
      last_id = id
      trim_bytes(id, #ARGV[index])
      outcome = {outcome, position}
    end
  end
  reply[#reply + 1] = outcome
end
-- What outlives the last message is prolonged once in an allowance: a call for each message would cost more.
if string.sub(first_id, 1, ARGV[5]) == string.sub(last_id, 1, ARGV[5]) then
  redis.call('SET', KEYS[1], epoch .. last_id, 'KEEPTTL')
else
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], epoch .. last_id, 'PX', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[3]))
end
if KEYS[5] and not reply[2].err then
  redis.call('SET', KEYS[5], string.format('%.0f %s', reply[2][1], reply[2][2]), 'PX', ARGV[11])
end
return reply
