-- Whether it is this holder's turn to tell an address, and how far that one has been told. One that nobody told before
-- begins at the end of the audit trail.
-- KEYS: callback
-- ARGV: holder, or '' to begin only; how long it is then its turn (ms); '1' to try an address again that wants no more
-- Returns {now, fields and values}, or {now} if it is another's turn.
local now = now_ms()
if redis.call('HEXISTS', KEYS[1], 'position') == 0 then
  local last = redis.call('XREVRANGE', AUDIT, '+', '-', 'COUNT', 1)[1]
  redis.call('HSET', KEYS[1], 'position', last and last[1] or '0-0')
end
renew_callback(KEYS[1])
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'stopped', '0') end
local kept = redis.call('HMGET', KEYS[1], 'holder', 'until')
if ARGV[1] == '' or (kept[1] and kept[1] ~= ARGV[1] and tonumber(kept[2]) > now) then return {now} end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', now + tonumber(ARGV[2]))
return {now, unpack(redis.call('HGETALL', KEYS[1]))}
