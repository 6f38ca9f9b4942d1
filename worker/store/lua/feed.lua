-- Chooses the shards of a batch for which a message is due: never sent, given back, lost, or left by a dead holder.
-- KEYS: meta, shards, parked, holders
-- ARGV: how many shards may be under way, time (ms) after which a message that nobody claimed counts as lost, "here" to
--       choose one for the asker itself, however many are under way: also one whose message nobody has taken up yet
-- Returns {environment, merchant, upstream, shard numbers}, or {} if there are none. A shard's score is the time at which it is due
-- again, so that one rule serves all. While a batch waits for the upstream, one shard is enough to ask whether it is back.
local stands = standing(KEYS[1])
local now, room = now_ms(), tonumber(ARGV[1])
if stands == 'waiting' then
  room = 1
elseif stands ~= 'running' and stands ~= 'cancelled' then
  return {}
end
if ARGV[3] ~= 'here' then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  room = room - redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf') + redis.call('ZCARD', KEYS[3])
end
if room <= 0 then return {} end

local function is_held(shard)
  local holder = redis.call('HGET', KEYS[4], shard)
  return holder and tonumber(holder:match(' (%d+) ')) > now
end

local due
local first = canary_left(KEYS[1], stands) and first_unfinished(KEYS[2])
if first then
  local is_due = tonumber(redis.call('ZSCORE', KEYS[2], first)) <= now or (ARGV[3] == 'here' and not is_held(first))
  due = is_due and {first} or {}
else
  due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, room)
  if #due == 0 and ARGV[3] == 'here' then
    for _, shard in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')) do
      if not is_held(shard) then
        due = {shard}
        break
      end
    end
  end
end
if #due == 0 then return {} end
for _, shard in ipairs(due) do redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), shard) end
local target = redis.call('HMGET', KEYS[1], 'environment', 'merchant', 'upstream')
return {target[1], target[2], target[3], due}
