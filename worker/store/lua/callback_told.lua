-- Keeps how far an address has been told, if it still is the holder's turn.
-- KEYS: callback
-- ARGV: holder, n, n fields and values, then what the audit trail notes: batch ID, further fields and values; or nothing
-- Returns 1 if kept, else 0.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
renew_callback(KEYS[1])
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
if ARGV[at] then note('worker', 'untold', ARGV[at], unpack(ARGV, at + 1)) end
return 1
