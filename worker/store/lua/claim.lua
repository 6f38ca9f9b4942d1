-- Gives a shard to one holder for the time of a lease (SPEC 4, promise 4).
-- KEYS: meta, shards, holders, ids, out:<shard>, tries:<shard>, parked
-- ARGV: shard, token, lease (ms)
-- Returns {"ok", interrupted, packed IDs, offsets with an outcome, flat list of offset and history}
--       | {"held"} | {"done"} | {"not_running", state}; a second call with the same token answers the same.
-- A shard whose last holder neither finished it nor gave it back was interrupted, and stays marked so: an attempt of it
-- may have been executed without anybody knowing.
local shard, token = ARGV[1], ARGV[2]
local state = redis.call('HGET', KEYS[1], 'state') or 'gone'
if state ~= 'running' then return {'not_running', state} end
if not redis.call('ZSCORE', KEYS[2], shard) then return {'done'} end

local now, interrupted = now_ms(), '0'
local holder = redis.call('HGET', KEYS[3], shard)
if holder then
  local last, expires, was = holder:match('^(%S+) (%d+) (%d)$')
  interrupted = was
  if last ~= '-' and last ~= token then
    if tonumber(expires) > now then return {'held'} end
    interrupted = '1'
  end
end
local expires = now + tonumber(ARGV[3])
write_holder(KEYS[3], shard, token, expires, interrupted)
redis.call('ZADD', KEYS[2], expires, shard)
redis.call('ZREM', KEYS[7], shard)
return {'ok', interrupted, redis.call('HGET', KEYS[4], shard), redis.call('HKEYS', KEYS[5]), redis.call('HGETALL', KEYS[6])}
