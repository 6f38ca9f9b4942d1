-- Pauses a batch while the upstream is away, or lets it go on (SPEC 4, promise 5). It stays active: it resumes by itself.
-- KEYS: meta, shards, holders, parked
-- ARGV: milliseconds until the upstream is asked again, or '' when it is back
-- Any other pause, and an end, go before.
local stands, batch = standing(KEYS[1]), KEYS[1]:match('{(.-)}')
if ARGV[1] ~= '' then
  if stands == 'running' or stands == 'waiting' then
    if stands == 'running' then note('worker', 'paused', batch, 'reason', 'circuit_open') end
    redis.call('HSET', KEYS[1], 'state', 'paused', 'state_reason', 'circuit_open', 'probe_at', now_ms() + tonumber(ARGV[1]))
  end
elseif stands == 'waiting' then
  redis.call('HSET', KEYS[1], 'state', 'running')
  redis.call('HDEL', KEYS[1], 'state_reason', 'probe_at')
  note('worker', 'resumed', batch)
  make_due(KEYS[2], KEYS[3], KEYS[4])
end
