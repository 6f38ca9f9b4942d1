-- One atomic step (SPEC 4, promise 2): writes outcomes that are not yet written, moves the tally by just those, extends
-- the ledger and the lease, ends shard and batch when nothing of them is left, and pauses a batch that ends badly.
-- KEYS: meta, shards, holders, tally, out:<shard>, tries:<shard>, holds version
-- ARGV: batch ID, prefix of the batch's keys, shard, records in the shard, token, lease (ms), retention (s),
--       ledger prefix, its expiry (s since the epoch; 0: no ledger), packed batch ID,
--       then all results in one string, as packing.py writes them: offset, reason, packed result, digest or '',
--       the reasons that are bad and those of other records that were sent, with a space before and behind each,
--       records that must be done before their shares count
-- Returns {"ok" | "stale", standing, holds version}. With no results it renews the lease and tells how the batch stands.
-- Asked again after the shard ended, it answers "ok": all that it could write stands already.

local function is_one_of(reason, reasons)
  return reasons:find(' ' .. reason .. ' ', 1, true)
end

-- How many of the batch were sent and are done, how many of them ended badly, how many were not there.
local function judged()
  local counts, done, bad, not_found = redis.call('HGETALL', KEYS[4]), 0, 0, 0
  for i = 1, #counts, 2 do
    local reason, count = counts[i], tonumber(counts[i + 1])
    if is_one_of(reason, ARGV[12]) then
      done, bad = done + count, bad + count
    elseif is_one_of(reason, ARGV[13]) then
      done = done + count
    end
    if reason == 'not_found' then not_found = count end
  end
  return done, bad, not_found
end

-- The brakes (SPEC 6): pauses a batch when too much of what was sent ended badly or was not there. A canary is judged when
-- all of it is done; if it is well, the rest waits for it no longer.
local function brake(may_pause)
  local set = redis.call('HMGET', KEYS[1], 'failure_threshold', 'not_found_threshold', 'despite', 'canary', 'canary_left')
  local done, bad, not_found = judged()
  local of_canary = set[5] and tonumber(set[4])
  if of_canary then redis.call('HSET', KEYS[1], 'canary_left', math.max(0, of_canary - done)) end
  if not may_pause or done < (of_canary or tonumber(ARGV[14])) then return false end
  for _, share in ipairs({{'failure_threshold', bad, set[1]}, {'mostly_not_found', not_found, set[2]}}) do
    local reason, count, threshold = share[1], share[2], tonumber(share[3])
    if threshold and count / done >= threshold and not (set[3] and set[3]:find(reason, 1, true)) then
      local numbers = table.concat({count, done, threshold, of_canary and 1 or 0}, ' ')
      redis.call('HSET', KEYS[1], 'state', 'paused', 'state_reason', reason, 'tripped', numbers)
      redis.call('HDEL', KEYS[1], 'probe_at')
      deactivate(KEYS[1], ARGV[1])
      note('worker', 'paused', ARGV[1], 'reason', reason)
      return true
    end
  end
  redis.call('HDEL', KEYS[1], 'canary_left')
  return false
end

local shard, token = ARGV[3], ARGV[5]
local stands, holds = standing(KEYS[1]), redis.call('GET', KEYS[7]) or '0'
-- Of a batch that is gone nothing is written, else a late writer would leave a tally that never expires.
if stands == 'gone' then return {'stale', stands, holds} end
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
if pending > 0 and brake(stands == 'running' or stands == 'waiting') then stands = 'paused' end
if pending == 0 and stands ~= 'paused' then
  stands = stands == 'cancelled' and 'cancelled' or 'completed'
  end_batch(ARGV[1], ARGV[2], KEYS[1], stands, ARGV[7])
end
return {'ok', stands, holds}
