-- Notes that what the shards of a purged batch left is removed: something to wait for, for a WAIT behind it.
-- KEYS: purging
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'shards', 0) end
return 'ok'
