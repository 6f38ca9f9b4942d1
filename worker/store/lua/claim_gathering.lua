-- Gives out a gathering that is due to become a batch; nothing joins it any more.
-- KEYS: gatherings
-- ARGV: prefix of gatherings' keys, prefix of the open ones' keys, milliseconds after which it is given out again unless
--       it was removed: whoever has it may die
-- Returns {ID, lane, records, the earliest time at which one is due (s) or ''}, or nothing.
local id = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'LIMIT', 0, 1)[1]
if not id then return false end
local kept = redis.call('HMGET', ARGV[1] .. id, 'lane', 'rows', 'due')
if (redis.call('GET', ARGV[2] .. kept[1]) or ''):sub(1, 13) == id then redis.call('DEL', ARGV[2] .. kept[1]) end
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[3]), id)
return {id, kept[1], tonumber(kept[2]), kept[3] or ''}
