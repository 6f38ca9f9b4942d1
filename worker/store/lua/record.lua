-- One atomic step (SPEC 4, promise 2): writes outcomes that are not yet written, moves the tally by just those, extends
-- the ledger and the lease, and ends shard and batch when nothing of them is left.
-- KEYS: meta, shards, holders, tally, out:<shard>, tries:<shard>, holds version
-- ARGV: batch ID, prefix of the batch's keys, shard, records in the shard, token, lease (ms), retention (s),
--       ledger prefix, its expiry (s since the epoch; 0: no ledger), packed batch ID,
--       then all results in one string, as packing.py writes them: offset, reason, packed result, digest or ''
-- Returns {"ok" | "stale", standing, holds version}. With no results it renews the lease and tells how the batch stands.
-- Asked again after the shard ended, it answers "ok": all that it could write stands already.
local shard, token = ARGV[3], ARGV[5]
local stands, holds = standing(KEYS[1]), redis.call('GET', KEYS[7]) or '0'
local holder = redis.call('HGET', KEYS[3], shard)
local ended = not redis.call('ZSCORE', KEYS[2], shard) and redis.call('HLEN', KEYS[5]) == tonumber(ARGV[4])
-- An acknowledged claim may be lost with Redis' last writes. Nobody else holds the shard then, so it is still the asker's:
-- given out as if nobody had begun it, what was sent already would read not_found.
if not holder and redis.call('ZSCORE', KEYS[2], shard) then holder = token .. ' 0 0' end
if not ended and (not holder or holder:sub(1, #token + 1) ~= token .. ' ') then return {'stale', stands, holds} end

local now = now_ms()
local seconds = struct.pack('>I4', math.floor(now / 1000))
local reasons, written, results, at = {}, 0, ARGV[11], 1
while at <= #results do
  local offset, reason, packed, digest
  offset, reason, packed, digest, at = struct.unpack('>I4Bc0I2c0Bc0', results, at)
  if redis.call('HSETNX', KEYS[5], offset, seconds .. packed) == 1 then
    reasons[reason] = (reasons[reason] or 0) + 1
    written = written + 1
    if digest ~= '' and ARGV[9] ~= '0' then
      local bucket = ARGV[8] .. digest:sub(1, 2)
      redis.call('HSET', bucket, digest:sub(3), ARGV[10] .. seconds)
      if redis.call('HLEN', bucket) == 1 then redis.call('EXPIREAT', bucket, ARGV[9]) end
    end
  end
end
for reason, count in pairs(reasons) do redis.call('HINCRBY', KEYS[4], reason, count) end
-- Also when nothing was written, so that a WAIT behind it has something to wait for. Not -written: Redis 7.0 takes no -0.
local pending = redis.call('HINCRBY', KEYS[4], 'pending', 0 - written)
if ended then return {'ok', stands, holds} end

if redis.call('HLEN', KEYS[5]) == tonumber(ARGV[4]) then
  redis.call('ZREM', KEYS[2], shard)
  redis.call('HDEL', KEYS[3], shard, 'suspect:' .. shard)
  redis.call('DEL', KEYS[6])
else
  local expires = now + tonumber(ARGV[6])
  write_holder(KEYS[3], shard, token, expires, holder:sub(-1))
  redis.call('ZADD', KEYS[2], expires, shard)
end
if pending == 0 and stands ~= 'paused' then
  stands = stands == 'cancelled' and 'cancelled' or 'completed'
  end_batch(ARGV[1], ARGV[2], KEYS[1], stands, ARGV[7])
end
return {'ok', stands, holds}
