-- Chooses the shards of a batch for which a message is due: never sent, given back, lost, or left by a dead holder.
-- KEYS: meta, shards
-- ARGV: window, time (ms) after which a message that nobody claimed counts as lost
-- Returns {environment, merchant, shard numbers to send}, or {} if there are none. A shard's score is the time at which it is due again, so that one rule serves all.
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return {} end
local now = now_ms()
local room = tonumber(ARGV[1]) - redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf')
if room <= 0 then return {} end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, room)
if #due == 0 then return {} end
for _, shard in ipairs(due) do redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), shard) end
local target = redis.call('HMGET', KEYS[1], 'environment', 'merchant')
return {target[1], target[2], due}
