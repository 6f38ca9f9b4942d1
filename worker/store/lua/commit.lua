-- Makes a batch that is wholly loaded count: from here on it is accepted. Before, its keys expire by themselves.
-- One that needs approval, and has anything to send, is not active: nothing of it is sent before transition.lua lets it.
-- KEYS: meta, tally, shards, ids, file, batches, active, and the reference's if there is one
-- ARGV: batch ID, prefix of the batch's keys, retention (s), "1" to accept a file that was accepted before, shards,
--       meta key of the batch whose records it sends again or '', n, n tally fields and values, m, m shard numbers with
--       outcomes or attempts, then meta fields and values
-- Returns {"ok", state} | {"file", ID of the batch it was} | {"reference", ID} | {"lost", ''} if what was loaded has
-- expired; answers the same if asked twice.
local batch, prefix = ARGV[1], ARGV[2]
if redis.call('EXISTS', KEYS[1]) == 1 then return {'ok', redis.call('HGET', KEYS[1], 'state')} end
if KEYS[8] then
  local referred = redis.call('GET', KEYS[8])
  if referred then return {'reference', referred} end
end
local known = redis.call('GET', KEYS[5])
if known and ARGV[4] ~= '1' then return {'file', known} end

if redis.call('HLEN', KEYS[4]) ~= tonumber(ARGV[5]) then return {'lost', ''} end

local at, pending = 7, 0
for _ = 1, tonumber(ARGV[at]) do
  redis.call('HSET', KEYS[2], ARGV[at + 1], ARGV[at + 2])
  if ARGV[at + 1] == 'pending' then pending = tonumber(ARGV[at + 2]) end
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  at = at + 1
  redis.call('PERSIST', prefix .. 'out:' .. ARGV[at])
  redis.call('PERSIST', prefix .. 'tries:' .. ARGV[at])
end
redis.call('PERSIST', KEYS[3])
redis.call('PERSIST', KEYS[4])
redis.call('PERSIST', prefix .. 'kept')

local now = now_ms()
for i = at + 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
local said = redis.call('HMGET', KEYS[1], 'needs_approval', 'submitted_by', 'rows', 'sha256', 'environment', 'merchant',
  'retry_of')
local state = said[1] == '1' and pending > 0 and 'awaiting_approval' or 'running'
redis.call('HSET', KEYS[1], 'state', state, 'created_at', now, 'file_key', KEYS[5], 'active_key', KEYS[7])
local canary = redis.call('HGET', KEYS[1], 'canary')
if canary ~= '0' then redis.call('HSET', KEYS[1], 'canary_left', canary) end
if ARGV[6] ~= '' and redis.call('EXISTS', ARGV[6]) == 1 then redis.call('HSET', ARGV[6], 'retried_by', batch) end
redis.call('SET', KEYS[5], batch)
if KEYS[8] then
  redis.call('SET', KEYS[8], batch)
  redis.call('HSET', KEYS[1], 'reference_key', KEYS[8])
end
redis.call('ZADD', KEYS[6], now, batch)
if state == 'running' then activate(KEYS[1], batch) end
local detail = {'state', state, 'rows', said[3], 'sha256', said[4], 'environment', said[5], 'merchant', said[6]}
if said[7] ~= '' then
  detail[#detail + 1] = 'retry_of'
  detail[#detail + 1] = said[7]
end
note(said[2], 'submitted', batch, unpack(detail))
if pending == 0 then
  end_batch(batch, prefix, KEYS[1], 'completed', ARGV[3])
  return {'ok', 'completed'}
end
return {'ok', state}
