-- Which of many customers the ledger knows.
-- ARGV: ledger prefixes (one a period, newest first), joined by a space; digests of 12 bytes, one after another
-- Returns a flat list: position (from 0), value.
local found = {}
for at = 1, #ARGV[2], 12 do
  local bucket, field = ARGV[2]:sub(at, at + 1), ARGV[2]:sub(at + 2, at + 11)
  for prefix in ARGV[1]:gmatch('%S+') do
    local value = redis.call('HGET', prefix .. bucket, field)
    if value then
      found[#found + 1] = (at - 1) / 12
      found[#found + 1] = value
      break
    end
  end
end
return found
