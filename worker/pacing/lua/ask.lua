-- Tells the circuit what is known of the upstream, and asks how it stands.
-- KEYS: the circuit
-- ARGV: epoch, answered, failed, absent, jitter
-- Returns microseconds until the upstream is asked again (0: at any time now), or -1 if the circuit is closed.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local seen = look(KEYS[1], now, tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
if seen.opened == 0 then return -1 end
return math.max(0, math.floor(seen.probe_at - now))
