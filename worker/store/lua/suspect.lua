-- Notes which record of a shard is in hand, alone: should its holder die now, it may be the one that killed it.
-- KEYS: holders
-- ARGV: shard, token, offset
-- Returns "ok" | "stale". Kept as: offset, token, how many holders died with it in hand before.
local shard, token, offset = ARGV[1], ARGV[2], ARGV[3]
local holder = redis.call('HGET', KEYS[1], shard)
if not holder or holder:sub(1, #token + 1) ~= token .. ' ' then return 'stale' end
local strikes = 0
local before = redis.call('HGET', KEYS[1], 'suspect:' .. shard)
if before then
  local last, by, count = before:match('^(%d+) (%S+) (%d+)$')
  if last == offset then strikes = tonumber(count) + (by == token and 0 or 1) end
end
redis.call('HSET', KEYS[1], 'suspect:' .. shard, offset .. ' ' .. token .. ' ' .. strikes)
return 'ok'
