-- Looks at the oldest messages of queues without taking them.
-- KEYS: lists that kombu takes for queues; those of the first are read first
-- ARGV: how many messages at most, after how many bytes to end, most bytes of one message
-- Returns flat, of each message, oldest first: its SHA-1, and its content, or nil if it is too large to be read.
local answer, bytes = {}, 0
for _, queue in ipairs(KEYS) do
  local at = -1
  while #answer < 2 * tonumber(ARGV[1]) and bytes < tonumber(ARGV[2]) do
    local message = redis.call('LINDEX', queue, at)
    if not message then break end
    answer[#answer + 1] = redis.sha1hex(message)
    answer[#answer + 1] = #message <= tonumber(ARGV[3]) and message
    bytes, at = bytes + #message, at - 1
  end
end
return answer
