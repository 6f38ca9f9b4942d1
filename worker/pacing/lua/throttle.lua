-- After a 429: everybody pauses, and the rate is halved, but only once a pause, however many 429s came of it.
-- KEYS: the pace
-- ARGV: pause (us), recovery of the rate per second, smallest factor
-- Returns the microseconds that the pause still lasts.
local pace = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('HMGET', pace, 'paused_until', 'factor', 'factor_at', 'cut_until', 'next')
local until_ = math.max(tonumber(kept[1] or 0), now + tonumber(ARGV[1]))

if now >= tonumber(kept[4] or 0) then
  local factor = 1
  if kept[2] then
    factor = math.min(1, tonumber(kept[2]) + math.max(0, now - tonumber(kept[3])) / 1000000 * tonumber(ARGV[2]))
  end
  redis.call('HSET', pace, 'factor', math.max(factor / 2, tonumber(ARGV[3])), 'factor_at', string.format('%.0f', until_),
    'cut_until', string.format('%.0f', until_ + 1000000))
end
redis.call('HSET', pace, 'paused_until', string.format('%.0f', until_),
  'next', string.format('%.0f', math.max(tonumber(kept[5] or 0), until_)))
redis.call('PEXPIRE', pace, math.max(redis.call('PTTL', pace), math.floor((until_ - now) / 1000) + 600000))
return math.floor(until_ - now)
