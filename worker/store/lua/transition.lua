-- Moves a batch from one state to another, if it is in that state (SPEC 5).
-- KEYS: meta, tally, active, shards, holders
-- ARGV: batch ID, prefix of the batch's keys, retention (s), state it must be in, new state, its reason or ''
-- Returns {1 if moved else 0, state, reason or ''} as they are afterwards.
local meta, to, reason = KEYS[1], ARGV[5], ARGV[6]
local state = redis.call('HGET', meta, 'state') or 'gone'
if state ~= ARGV[4] then return {0, state, redis.call('HGET', meta, 'state_reason') or ''} end
if to == 'running' and redis.call('HGET', KEYS[2], 'pending') == '0' then
  end_batch(ARGV[1], ARGV[2], meta, KEYS[3], 'completed', ARGV[3])
  return {1, 'completed', ''}
end
if to == 'running' then
  -- Messages that came while it was paused were passed over: what nobody holds is due at once.
  local now = now_ms()
  for _, shard in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], now, '+inf')) do
    local holder = redis.call('HGET', KEYS[5], shard)
    if not holder or tonumber(holder:match(' (%d+) ')) <= now then redis.call('ZADD', KEYS[4], shard, shard) end
  end
end
redis.call('HSET', meta, 'state', to)
if reason == '' then redis.call('HDEL', meta, 'state_reason') else redis.call('HSET', meta, 'state_reason', reason) end
return {1, to, reason}
