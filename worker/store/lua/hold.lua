-- Puts customers on hold, all or none (SPEC 6).
-- KEYS: holds, hold ends, holds version
-- ARGV: "1" to replace what stands, IDs as a JSON array, terms as a JSON array of [end (ms since the epoch; "0": none),
--       ground], which of them (from 1) each ID has as a JSON array, who does it, environment and merchant for the audit
--       trail, which has no customer
-- Returns {"ok", how many are new or changed} | {"overlaps", how many, position, value, ...}: holds of another end or
-- ground, the first few with their values. Kept as: end, beginning, ground. Asked again it answers "ok": equal holds stand
-- as they are.
drop_ended(KEYS[1], KEYS[2])
local ids, terms, which, same = cjson.decode(ARGV[2]), cjson.decode(ARGV[3]), cjson.decode(ARGV[4]), {}
local overlaps = {'overlaps', 0}
for at, id in ipairs(ids) do
  local value = redis.call('HGET', KEYS[1], id)
  if value then
    local ends, ground = value:match('^(%d+) %d+ (.*)$')
    local term = terms[which[at]]
    same[at] = ends == term[1] and ground == term[2]
    if not same[at] and ARGV[1] ~= '1' then
      overlaps[2] = overlaps[2] + 1
      if overlaps[2] <= 5 then
        overlaps[#overlaps + 1] = at - 1
        overlaps[#overlaps + 1] = value
      end
    end
  end
end
if overlaps[2] > 0 then return overlaps end

local changed, since = 0, string.format('%d', now_ms())
for at, id in ipairs(ids) do
  if not same[at] then
    local ends, ground = unpack(terms[which[at]])
    redis.call('HSET', KEYS[1], id, ends .. ' ' .. since .. ' ' .. ground)
    if ends == '0' then redis.call('ZREM', KEYS[2], id) else redis.call('ZADD', KEYS[2], ends, id) end
    changed = changed + 1
  end
end
-- Also when nothing changed, so that a WAIT behind it has something to wait for.
redis.call('INCR', KEYS[3])
if changed > 0 then note(ARGV[5], 'held', '', 'customers', changed, 'environment', ARGV[6], 'merchant', ARGV[7]) end
return {'ok', changed}
