-- Gives a shard to one holder for the time of a lease (SPEC 4, promise 4).
-- KEYS: meta, shards, holders, ids, out:<shard>, tries:<shard>, parked
-- ARGV: shard, token, lease (ms)
-- Returns {"ok", standing, deaths, suspect or -1, its strikes, lane, records that may be sent or -1, packed IDs, offsets with an outcome,
--          flat list of offset and history}
--       | {"held"} | {"done"} | {"not_running"}; a second call with the same token answers the same.
-- A holder that neither finished its shard nor gave it back has died: an attempt of it may have been executed without
-- anybody knowing. The shards of a cancelled batch are given out as well, so that their records get an outcome.
local shard, token = ARGV[1], ARGV[2]
local stands = standing(KEYS[1])
if stands ~= 'running' and stands ~= 'waiting' and stands ~= 'cancelled' then return {'not_running'} end
if not redis.call('ZSCORE', KEYS[2], shard) then return {'done'} end
local left = canary_left(KEYS[1], stands)
if left and shard ~= first_unfinished(KEYS[2]) then return {'not_running'} end

local now, deaths = now_ms(), 0
local holder = redis.call('HGET', KEYS[3], shard)
if holder then
  local last, expires, before = holder:match('^(%S+) (%d+) (%d)$')
  deaths = tonumber(before)
  if last ~= '-' and last ~= token then
    if tonumber(expires) > now then return {'held'} end
    deaths = math.min(deaths + 1, 9)
  end
end
local expires = now + tonumber(ARGV[3])
write_holder(KEYS[3], shard, token, expires, deaths)
redis.call('ZADD', KEYS[2], expires, shard)
redis.call('ZREM', KEYS[7], shard)
local suspect, by, strikes = (redis.call('HGET', KEYS[3], 'suspect:' .. shard) or '-1 - 0'):match('^(%S+) (%S+) (%d+)$')
if suspect ~= '-1' and by ~= token then strikes = strikes + 1 end
return {
  'ok', stands, deaths, tonumber(suspect), tonumber(strikes), redis.call('HGET', KEYS[1], 'lane'),
  left or -1, redis.call('HGET', KEYS[4], shard), redis.call('HKEYS', KEYS[5]), redis.call('HGETALL', KEYS[6])
}
