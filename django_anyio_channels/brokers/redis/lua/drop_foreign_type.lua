-- Library. Defines drop_foreign_type(command, key): delete a key whose type is not the one that the reading command
-- is for. Another program wrote it, and no later command of the script may fail for that.
local function drop_foreign_type(command, key)
  local reply = redis.pcall(command, key)
  if type(reply) == 'table' and string.find(reply.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
end
