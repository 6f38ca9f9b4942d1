-- Put before every script of this folder.

-- The server's clock, milliseconds: machines' clocks may differ (SPEC 4).
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- How a holder is written down: token, when its lease ends, whether an earlier holder was interrupted.
local function write_holder(holders, shard, token, expires, interrupted)
  redis.call('HSET', holders, shard, token .. ' ' .. string.format('%d', expires) .. ' ' .. interrupted)
end

-- Ends a batch; all of it expires when its retention is over (SPEC 10).
local function end_batch(batch, prefix, meta, active, state, retention)
  redis.call('HSET', meta, 'state', state, 'ended_at', now_ms())
  redis.call('HDEL', meta, 'state_reason')
  redis.call('SREM', active, batch)
  for _, part in ipairs({'meta', 'ids', 'shards', 'holders', 'tally', 'parked'}) do
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

