-- Takes events in, each once (SPEC 8): one that is new joins the gathering that is open for its lane, or the next one if
-- it has no place for all of its records.
-- KEYS: the open gathering, gatherings
-- ARGV: a gathering that may be opened (ID, then the ID packed), lane, most records in one, for how long one gathers (ms),
--       prefix of gatherings' keys, prefixes of what was seen (one a period, newest first) joined by a space, when what is
--       seen now is forgotten (s since the epoch), then of each event: digest (12 bytes), number of its records, when they are due (s) or '', their lines
-- All events of one call have a place in one gathering. Returns flat, of each event: the packed ID of the gathering that
-- took it, now or the first time, and whether it was known.
local fresh, lane, most, prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local open, rows = redis.call('GET', KEYS[1]), 0
if open then rows = tonumber(redis.call('HGET', prefix .. open:sub(1, 13), 'rows')) end

local newest = ARGV[6]:match('%S+')
local function seen(digest)
  for period in ARGV[6]:gmatch('%S+') do
    local known = redis.call('HGET', period .. digest:sub(1, 2), digest:sub(3))
    if known then return known end
  end
end

local function close()
  redis.call('ZADD', KEYS[2], now_ms(), open:sub(1, 13))
  redis.call('DEL', KEYS[1])
  open = false
end

local function take(digest, count, due, lines)
  if open and rows + count > most then close() end
  if not open then
    open, rows = fresh, 0
    redis.call('SET', KEYS[1], open)
    redis.call('ZADD', KEYS[2], now_ms() + tonumber(ARGV[4]), open:sub(1, 13))
    redis.call('HSET', prefix .. open:sub(1, 13), 'lane', lane)
  end
  redis.call('RPUSH', prefix .. open:sub(1, 13) .. ':lines', lines)
  rows = redis.call('HINCRBY', prefix .. open:sub(1, 13), 'rows', count)
  if due ~= '' then
    local earliest = redis.call('HGET', prefix .. open:sub(1, 13), 'due')
    if not earliest or tonumber(due) < tonumber(earliest) then
      redis.call('HSET', prefix .. open:sub(1, 13), 'due', due)
    end
  end
  local bucket = newest .. digest:sub(1, 2)
  redis.call('HSET', bucket, digest:sub(3), open:sub(14))
  redis.call('EXPIREAT', bucket, ARGV[7])
  return open:sub(14)
end

local answer = {}
for i = 8, #ARGV, 4 do
  local known = seen(ARGV[i])
  answer[#answer + 1] = known or take(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3])
  answer[#answer + 1] = known and 1 or 0
end
if open and rows >= most then close() end
return answer
