-- Takes messages off queues that were looked at: these alone, whatever has come or gone meanwhile.
-- KEYS: lists that kombu takes for queues
-- ARGV: how far to look for them in each, then their SHA-1s
local read = {}
for i = 2, #ARGV do read[ARGV[i]] = true end
for _, queue in ipairs(KEYS) do
  local at = -1
  for _ = 1, tonumber(ARGV[1]) do
    local message = redis.call('LINDEX', queue, at)
    if not message then break end
    if read[redis.sha1hex(message)] then
      redis.call('LREM', queue, -1, message)
    else
      at = at - 1
    end
  end
end
