-- Takes an ended batch away (SPEC 10): from here on there is none of its ID. What its shards have left is found by nobody
-- any more; it expires as it would have, unless purging.py removes it first, which the key "purging" is kept for.
-- KEYS: meta, purging, list of batches, requests, gatherings, then whatever else goes in this step
-- ARGV: batch ID, who does it, the gathering of events that it was made of or ''
-- Returns {"ok", keys removed} | {"gone", 0} | {"not_ended", 0}
-- Large values are unlinked, which takes no time here: another thread frees them.
local batch, meta, purging = ARGV[1], KEYS[1], KEYS[2]
if redis.call('EXISTS', meta) == 0 then return {'gone', 0} end
if redis.call('HEXISTS', meta, 'ended_at') == 0 then return {'not_ended', 0} end

local kept = redis.call('HMGET', meta, 'shards', 'rows', 'environment', 'merchant', 'file_key', 'reference_key')
redis.call('HSET', purging, 'shards', kept[1], 'rows', kept[2])
redis.call('PEXPIRE', purging, math.max(redis.call('PTTL', meta), 1))
note(ARGV[2], 'purged', batch, 'rows', kept[2], 'environment', kept[3], 'merchant', kept[4])
redis.call('ZREM', KEYS[3], batch)
redis.call('ZREM', KEYS[5], ARGV[3])
deactivate(meta, batch)

local removed = 0
for i = 5, 6 do
  -- A later batch of the same file may have taken the name over.
  if kept[i] and redis.call('GET', kept[i]) == batch then removed = removed + redis.call('UNLINK', kept[i]) end
end
for _, name in ipairs(redis.call('SMEMBERS', KEYS[4])) do removed = removed + redis.call('UNLINK', name) end
removed = removed + redis.call('UNLINK', meta, KEYS[4])
for i = 6, #KEYS do removed = removed + redis.call('UNLINK', KEYS[i]) end
return {'ok', removed}
