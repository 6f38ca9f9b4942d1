-- Which of many customers are on hold, and the version of which that is true.
-- KEYS: holds, hold ends, holds version
-- ARGV: IDs as a JSON array
-- Returns a flat list: version, then position (from 0) and ground of each.
drop_ended(KEYS[1], KEYS[2])
local found = {redis.call('GET', KEYS[3]) or '0'}
if redis.call('EXISTS', KEYS[1]) == 0 then return found end
for at, id in ipairs(cjson.decode(ARGV[1])) do
  local value = redis.call('HGET', KEYS[1], id)
  if value then
    found[#found + 1] = at - 1
    found[#found + 1] = value:match('^%d+ %d+ (.*)$')
  end
end
return found
