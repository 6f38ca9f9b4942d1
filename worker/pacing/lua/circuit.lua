-- The circuit breaker of one upstream, shared by all workers (SPEC 4, promise 5). Put before the scripts that use it.
-- It is closed while requests are sent as usual. It opens when at least half of the last SPAN results say that the upstream
-- fails, and at least ENOUGH do; of those that say that nobody is there, a few are enough, since no record can be the
-- cause. Open, it lets one probe through now and then: answered, the circuit closes; failed, the pause gets longer.
-- A hash: epoch; good, bad, absent (results, older ones fading); opened (how many times in a row; 0: closed); probe_at
-- (us, when the next probe may go), probing ('1' while one is under way). Results of requests that were granted in
-- another epoch are no longer news.
local SPAN, ENOUGH, ABSENT_COUNTS = 24, 12, 4
local FIRST, LONGEST = 1000000, 30000000  -- us
local FORGET = 600000  -- ms

local function keep(circuit, fields, gone)
  redis.call('HSET', circuit, unpack(fields))
  if gone then redis.call('HDEL', circuit, unpack(gone)) end
  redis.call('PEXPIRE', circuit, FORGET)
end

local function open(circuit, seen, now, jitter)
  seen.epoch, seen.opened, seen.probing = seen.epoch + 1, seen.opened + 1, false
  -- Half of the pause is random, so that several installations do not probe together.
  seen.probe_at = now + math.min(LONGEST, FIRST * 2 ^ (seen.opened - 1)) * (0.5 + jitter / 2)
  keep(circuit,
    {'epoch', seen.epoch, 'opened', seen.opened, 'probe_at', string.format('%.0f', seen.probe_at)},
    {'good', 'bad', 'absent', 'probing'})
end

-- Takes in what a worker tells of requests of one epoch (how many were answered, failed, or found nobody there; jitter is
-- a random number from 0 to 1), and says how the circuit stands.
local function look(circuit, now, epoch, good, bad, absent, jitter)
  local kept = redis.call('HMGET', circuit, 'epoch', 'opened', 'probe_at', 'probing', 'good', 'bad', 'absent')
  local seen = {
    epoch = tonumber(kept[1] or 0), opened = tonumber(kept[2] or 0), probe_at = tonumber(kept[3] or 0),
    probing = kept[4] == '1'
  }
  if epoch ~= seen.epoch or good + bad + absent == 0 then return seen end

  if seen.opened == 0 then
    good, bad, absent = good + tonumber(kept[5] or 0), bad + tonumber(kept[6] or 0), absent + tonumber(kept[7] or 0)
    local fading = math.min(1, SPAN / (good + bad + absent))
    good, bad, absent = good * fading, bad * fading, absent * fading
    if bad + absent >= good and bad + absent * ABSENT_COUNTS >= ENOUGH then
      open(circuit, seen, now, jitter)
    else
      keep(circuit, {'epoch', seen.epoch, 'good', tostring(good), 'bad', tostring(bad), 'absent', tostring(absent)})
    end
  elseif seen.probing and good > 0 then
    seen.epoch, seen.opened, seen.probing = seen.epoch + 1, 0, false
    keep(circuit, {'epoch', seen.epoch}, {'opened', 'probe_at', 'probing'})
  elseif seen.probing then
    open(circuit, seen, now, jitter)
  end
  return seen
end

-- Notes that a probe is under way. One of which nothing is heard for `life` us was lost with its worker.
local function probe(circuit, seen, now, life)
  seen.epoch = seen.epoch + 1
  keep(circuit, {'epoch', seen.epoch, 'probing', '1', 'probe_at', string.format('%.0f', now + life)})
end

