-- Notes which record of a shard is in hand, alone: should its holder die now, it is the one that killed it.
-- KEYS: holders
-- ARGV: shard, token, offset
-- Returns "ok" | "stale".
local holder = redis.call('HGET', KEYS[1], ARGV[1])
if not holder or holder:sub(1, #ARGV[2] + 1) ~= ARGV[2] .. ' ' then return 'stale' end
redis.call('HSET', KEYS[1], 'suspect:' .. ARGV[1], ARGV[3])
return 'ok'
