-- Grants permits to send, for all workers together (SPEC 4, promise 6). The first window sets the pace: its permits are
-- evenly spaced (GCRA without burst). Every further window is counted in sixtieths, so that none of any position holds
-- more than its limit. The answer is when to send, by the server's clock, so that nobody polls.
-- KEYS: the pace, the circuit
-- ARGV: permits wanted, how far ahead they may lie (us), recovery of the rate per second; what is told to the circuit:
--       epoch, answered, failed, absent, jitter; how long a probe may take (us); then limit and seconds of each window
-- Returns {permits, microseconds until the first, microseconds between two, circuit, epoch}; without permits the second
-- is how long to wait. The circuit is 0 (closed), 1 (open: wait elsewhere) or 2 (a probe; or one is under way: wait here).
local SLOTS, ASK_AGAIN = 60, 250000
local pace = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ahead, wanted = tonumber(ARGV[2]), tonumber(ARGV[1])

local seen = look(KEYS[2], now, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
local probes = seen.opened > 0
if probes and now < seen.probe_at then
  if seen.probing then return {0, math.min(ASK_AGAIN, seen.probe_at - now), 0, 2, seen.epoch} end
  return {0, seen.probe_at - now, 0, 1, seen.epoch}
end
if probes then wanted = 1 end
local circuit = probes and 2 or 0

local kept = redis.call('HMGET', pace, 'next', 'paused_until', 'factor', 'factor_at')
local paused_until = tonumber(kept[2] or 0)
if paused_until > now then return {0, paused_until - now, 0, circuit, seen.epoch} end

local factor = 1
if kept[3] then
  factor = math.min(1, tonumber(kept[3]) + math.max(0, now - tonumber(kept[4])) / 1000000 * tonumber(ARGV[3]))
end
local interval = ARGV[11] * 1000000 / ARGV[10] / factor
local first = math.max(tonumber(kept[1] or 0), now)
if first - now >= ahead then return {0, first - now - ahead + interval, 0, circuit, seen.epoch} end
-- Half of what may be reserved, so that another process that asks finds as much: else who asks first keeps nearly all.
local permits = math.max(1, math.min(wanted, math.floor((ahead - (first - now)) / interval / 2)))

local slots = {}
for i = 12, #ARGV, 2 do
  local limit, length = tonumber(ARGV[i]), ARGV[i + 1] * 1000000 / SLOTS
  local slot = math.floor(first / length)
  local names = {}
  for back = -1, SLOTS do names[#names + 1] = i .. ':' .. string.format('%d', slot - back) end
  local counts = redis.call('HMGET', pace, unpack(names))
  local used, oldest = 0, SLOTS
  for at = #names, 1, -1 do
    if counts[at] then used = used + counts[at] end
    if counts[at] and oldest == SLOTS then oldest = at - 2 end
  end
  if used >= limit then return {0, (slot - oldest + SLOTS + 1) * length - now, 0, circuit, seen.epoch} end
  permits = math.min(permits, limit - used)
  slots[#slots + 1] = {i .. ':' .. string.format('%d', slot), i .. ':', slot - SLOTS - 1, length}
end

if probes then probe(KEYS[2], seen, first, tonumber(ARGV[9])) end
redis.call('HSET', pace, 'next', string.format('%.0f', first + permits * interval))
local life = 60000
for _, slot in ipairs(slots) do
  redis.call('HINCRBY', pace, slot[1], permits)
  for back = 0, 2 do redis.call('HDEL', pace, slot[2] .. string.format('%d', slot[3] - back)) end
  life = math.max(life, slot[4] * SLOTS * 2 / 1000)
end
if redis.call('PTTL', pace) < life then redis.call('PEXPIRE', pace, math.floor(life * 2)) end
return {permits, math.floor(first - now), math.floor(interval), circuit, seen.epoch}
