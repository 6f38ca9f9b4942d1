-- Gives a shard back before it is finished, with what its records tried so far; it is fed again when its time comes.
-- KEYS: shards, holders, tries:<shard>, parked
-- ARGV: shard, token, delay (ms) until it may be fed, "1" if the others of its batch need not wait as well, then offset
--       and packed history of each record that was tried
-- Returns "ok" | "stale".
local shard, token = ARGV[1], ARGV[2]
local holder = redis.call('HGET', KEYS[2], shard)
if not holder or holder:sub(1, #token + 1) ~= token .. ' ' then return 'stale' end
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
local due = now_ms() + tonumber(ARGV[3])
write_holder(KEYS[2], shard, '-', due, holder:sub(-1))
-- Only what it had in hand itself is cleared, not what killed a holder before it.
local suspect = redis.call('HGET', KEYS[2], 'suspect:' .. shard)
if suspect and suspect:match(' (%S+) ') == token then redis.call('HDEL', KEYS[2], 'suspect:' .. shard) end
redis.call('ZADD', KEYS[1], due, shard)
if ARGV[4] == '1' then redis.call('ZADD', KEYS[4], due, shard) end
return 'ok'
