-- Library. Defines the position of a group's last message: `last` is `epoch` (with its dash) and `last_id`, the id of
-- its entry; and begin_epoch(), which gives a group without a known position a new one. Until then its epoch is zero.
-- KEYS: 1 the position of the group's last message, 2 the group's history, a stream.
local last = redis.pcall('GET', KEYS[1])
if type(last) == 'table' and not string.find(last.err, 'WRONGTYPE', 1, true) then return last end
local known = type(last) == 'string' and #last < 33
  and (string.find(last, '^%x%x%x%x%x%x%x%x%-%d%d%d%d%d%d%d%d%d%d%d%d%d%-%d+$')
    or string.find(last, '^%x%x%x%x%x%x%x%x%-0%-0$'))
if not known then
  redis.call('DEL', KEYS[2])
  last = '00000000-0-0'
end
local epoch, last_id = string.sub(last, 1, 9), string.sub(last, 10)
local function begin_epoch()
  if not known then
    epoch = string.sub(redis.sha1hex(KEYS[1] .. table.concat(redis.call('TIME'), ' ')), 1, 8) .. '-'
    last = epoch .. last_id
  end
end
