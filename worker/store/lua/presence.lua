-- Notes that a worker process is alive, and counts those that are.
-- KEYS: workers
-- ARGV: name of the process, or '' to count only; how long it then counts as alive (ms)
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1]) end
return redis.call('ZCARD', KEYS[1])
