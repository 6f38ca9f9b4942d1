-- Put before every script of this folder.

-- The server's clock, milliseconds: machines' clocks may differ (SPEC 4).
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- How a batch stands for those who work on it: its state, but 'waiting' if it is paused only until the upstream is back.
local function standing(meta)
  local kept = redis.call('HMGET', meta, 'state', 'state_reason')
  if kept[1] == 'paused' and kept[2] == 'circuit_open' then return 'waiting' end
  return kept[1] or 'gone'
end

-- How a holder is written down: token, when its lease ends, how many earlier holders died (9 stands for more as well).
-- A shard that was given back has the holder '-', until the time at which it is due again.
local function write_holder(holders, shard, token, expires, deaths)
  redis.call('HSET', holders, shard, token .. ' ' .. string.format('%d', expires) .. ' ' .. deaths)
end

-- Messages that came while a batch was paused were passed over: what nobody holds is due at once.
local function make_due(shards, holders, parked)
  local now = now_ms()
  for _, shard in ipairs(redis.call('ZRANGEBYSCORE', shards, now, '+inf')) do
    local holder = redis.call('HGET', holders, shard)
    if not holder or holder:sub(1, 2) == '- ' or tonumber(holder:match(' (%d+) ')) <= now then
      redis.call('ZADD', shards, shard, shard)
    end
  end
  redis.call('DEL', parked)
end

-- The batches of one target that run, the urgent ones first: its workers share themselves among these.
local function activate(meta, batch)
  local kept = redis.call('HMGET', meta, 'active_key', 'lane')
  redis.call('ZADD', kept[1], kept[2] == 'urgent' and 0 or 1, batch)
end

-- Lets go of holds whose end has come: their customers' IDs rest no longer than they do.
local function drop_ended(holds, ends)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now_ms())) do
    redis.call('HDEL', holds, id)
    redis.call('ZREM', ends, id)
  end
end

local function deactivate(meta, batch)
  redis.call('ZREM', redis.call('HGET', meta, 'active_key'), batch)
end

-- While a canary is out, its records are alone: only the first unfinished shard is given out (SPEC 6). Cancelled, a batch
-- has none.
local function canary_left(meta, stands)
  return stands ~= 'cancelled' and tonumber(redis.call('HGET', meta, 'canary_left'))
end

local function first_unfinished(shards)
  if redis.call('ZCARD', shards) == 0 then return nil end
  local shard = 0
  while not redis.call('ZSCORE', shards, shard) do shard = shard + 1 end
  return tostring(shard)
end

-- Appends to the audit trail (docs/safety.md), which is kept for three years. The actor '' is somebody without a name.
local KEEP_AUDIT = 3 * 365 * 86400
local function note(actor, deed, batch, ...)
  local oldest = string.format('%d', now_ms() - KEEP_AUDIT * 1000)
  redis.call('XADD', AUDIT, 'MINID', '=', oldest, '*', 'actor', actor, 'deed', deed, 'batch', batch, ...)
  redis.call('EXPIRE', AUDIT, KEEP_AUDIT)
end

-- What is kept of an address is kept for 90 days. A full Redis refuses the first write of a script that could take memory,
-- but none behind another write, as this is: how far an address has been told is written, or it would be told for ever.
local function renew_callback(callback)
  redis.call('EXPIRE', callback, 90 * 86400)
end

-- Ends a batch; all of it expires when its retention is over (SPEC 10).
local function end_batch(batch, prefix, meta, state, retention)
  redis.call('HSET', meta, 'state', state, 'ended_at', now_ms())
  redis.call('HDEL', meta, 'state_reason', 'probe_at', 'tripped', 'canary_left')
  deactivate(meta, batch)
  if state == 'completed' then note('worker', 'completed', batch) end
  for _, part in ipairs({'meta', 'ids', 'kept', 'shards', 'holders', 'tally', 'parked'}) do
    redis.call('EXPIRE', prefix .. part, retention)
  end
  for shard = 0, tonumber(redis.call('HGET', meta, 'shards')) - 1 do
    redis.call('EXPIRE', prefix .. 'out:' .. shard, retention)
    redis.call('EXPIRE', prefix .. 'tries:' .. shard, retention)
  end
  for _, name in ipairs(redis.call('HMGET', meta, 'file_key', 'reference_key')) do
    -- A later batch of the same file may have taken the name over.
    if name and redis.call('GET', name) == batch then redis.call('EXPIRE', name, retention) end
  end
end

