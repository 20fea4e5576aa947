-- Library: what nodes have prefetched, see queue.lua. Messages return to the head of the queue before something is taken
-- from it; their fields are deleted with drop_fields() after something is written.
local dropped = {}
-- In ms: for so long, after they were found late, messages are kept for their node. If the server stood still, the node may
-- have deleted some in time, and the server reads that only now.
local GRACE = 500

-- The call in which a node prefetched, how many messages, until when they are for it, and whether they were found late;
-- nothing if there are none.
local function load_prefetched(node)
  local value = redis.call('HGET', inflight, node .. ' ahead') or ''
  local number, count, limit, late = string.match(value, '^(%d+) (%d%d?%d?) (%d+)(%D*)$')
  if number and #limit < 16 then return number, tonumber(count), tonumber(limit), late == ' late' end
end

-- Until when nobody needs to look for what others have not given to readers in time; nothing if nobody has prefetched.
local function load_ahead()
  local value = redis.call('HGET', inflight, 'ahead')
  return value and (#value < 16 and tonumber(string.match(value, '^%d+$')) or 0)
end

local function field_of(node, number, index)
  return node .. ' ' .. number .. '/' .. index
end

-- Return what a node prefetched to the queue, but for the first ones, which readers have. Returns how many were.
local function return_prefetched(node, begun)
  local number, count = load_prefetched(node)
  local returned = 0
  dropped[#dropped + 1] = node .. ' ahead'
  for index = count or 0, 1, -1 do
    local field = field_of(node, number, index)
    local message = index > begun and redis.call('HGET', inflight, field)
    if message then
      push_back(message)
      returned = returned + 1
    end
    dropped[#dropped + 1] = field
  end
  return returned
end

-- Return to the queue what other nodes prefetched and have not given to readers in time. Returns how many messages that
-- were, and when the next ones are due, or nil.
local function recover(but)
  local returned, due, soonest = 0, nil, nil
  for _, field in ipairs(redis.call('HKEYS', inflight)) do
    local node = string.match(field, '^(%w+) ahead$')
    if node and node ~= but then
      local number, count, limit, late = load_prefetched(node)
      local left = number and redis.call('HGET', inflight, field_of(node, number, count))
      if left and limit <= now and not late then
        limit = now + GRACE
        redis.call('HSET', inflight, field, string.format('%s %d %.0f late', number, count, limit))
      end
      if not number or limit <= now then
        returned = returned + return_prefetched(node, 0)
      else
        soonest = math.min(soonest or limit, limit)
        if left then due = math.min(due or limit, limit) end
      end
    end
  end
  if soonest then
    redis.call('HSET', inflight, 'ahead', string.format('%.0f', soonest))
  else
    dropped[#dropped + 1] = 'ahead'
  end
  return returned, due
end

-- Whether a field is about what was prefetched, and still needed.
local function is_of_prefetched(field)
  local node, number = string.match(field, '^(%w+) (%d+)/%d+$')
  if node then return load_prefetched(node) == number end
  return field == 'ahead' or string.match(field, '^%w+ ahead$') ~= nil
end

local function drop_fields(kept)
  local fields = {}
  for _, field in ipairs(dropped) do
    if not kept[field] then fields[#fields + 1] = field end
  end
  for first = 1, #fields, 1000 do
    redis.call('HDEL', inflight, unpack(fields, first, math.min(first + 999, #fields)))
  end
end
