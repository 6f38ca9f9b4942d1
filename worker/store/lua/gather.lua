-- Takes events in, each once (SPEC 8): one that is new joins the gathering that is open for its lane, or the next one if
-- it has no place for all of its records.
-- KEYS: the open gathering, gatherings
-- ARGV: a gathering that may be opened (ID, then the ID packed), lane, most records in one, for how long one gathers (ms),
--       prefix of gatherings' keys, prefixes of what was seen (one a period, newest first) joined by a space, when what is
--       seen now is forgotten (s since the epoch), the events' digests (12 bytes each), those of their customers (6 bytes
--       each), and as JSON of each event the number of its records, when they are due (s) or '', and their lines: three
--       arrays
-- All events of one call have a place in one gathering. Returns flat, of each event: the packed ID of the gathering that
-- took it, now or the first time, and 0; 1 if it was known; 2 if it was known with other customers, and so is not taken.
-- Thousands of events come in a second: what can be written once for all of them is.
local fresh, lane, most, prefix = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local digests, customers, events = ARGV[8], ARGV[9], cjson.decode(ARGV[10])
local counts, dues, lines = events[1], events[2], events[3]
local open, rows, earliest = redis.call('GET', KEYS[1]), 0, false
local joined = {}

local function of_open() return prefix .. open:sub(1, 13) end

if open then
  local kept = redis.call('HMGET', of_open(), 'rows', 'due')
  rows, earliest = tonumber(kept[1]), tonumber(kept[2] or nil)
end

local periods = {}
for period in ARGV[6]:gmatch('%S+') do periods[#periods + 1] = period end
local function seen(bucket, field)
  for i = 1, #periods do
    local known = redis.call('HGET', periods[i] .. bucket, field)
    if known then return known, periods[i] .. bucket end
  end
end

local function write()
  if #joined == 0 then return end
  redis.call('RPUSH', of_open() .. ':lines', table.concat(joined))
  redis.call('HSET', of_open(), 'rows', rows)
  if earliest then redis.call('HSET', of_open(), 'due', string.format('%.17g', earliest)) end
  joined = {}
end

local function close()
  write()
  redis.call('ZADD', KEYS[2], now_ms(), open:sub(1, 13))
  redis.call('DEL', KEYS[1])
  open = false
end

local function take(i, bucket, field, named)
  if open and rows + counts[i] > most then close() end
  if not open then
    open, rows, earliest = fresh, 0, false
    redis.call('SET', KEYS[1], open)
    redis.call('ZADD', KEYS[2], now_ms() + tonumber(ARGV[4]), open:sub(1, 13))
    redis.call('HSET', of_open(), 'lane', lane)
  end
  joined[#joined + 1] = lines[i]
  rows = rows + counts[i]
  if dues[i] ~= '' and (not earliest or dues[i] < earliest) then earliest = dues[i] end
  redis.call('HSET', periods[1] .. bucket, field, open:sub(14) .. named)
  if redis.call('HLEN', periods[1] .. bucket) == 1 then redis.call('EXPIREAT', periods[1] .. bucket, ARGV[7]) end
  return open:sub(14)
end

local answer, known_in = {}, false
for i = 1, #counts do
  local bucket, field = digests:sub(12 * i - 11, 12 * i - 10), digests:sub(12 * i - 9, 12 * i)
  local named = customers:sub(6 * i - 5, 6 * i)
  local known, where = seen(bucket, field)
  if known then known_in = where end
  answer[#answer + 1] = known and known:sub(1, 8) or take(i, bucket, field, named)
  answer[#answer + 1] = known and (known:sub(9) == named and 1 or 2) or 0
end
write()
-- Something is written each time, else whoever asks again would not wait for replicas (docs/decisions/0010).
if known_in then redis.call('EXPIREAT', known_in, ARGV[7]) end
if open and rows >= most then close() end
return answer
