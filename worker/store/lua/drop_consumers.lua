-- Takes consumers out of a stream's group that have nothing in hand and were not heard of for a while. One that has
-- something stays, or it would be lost; so both are asked in one step.
-- KEYS: the stream
-- ARGV: group, what the consumers' names begin with, for how long they were not heard of at least (ms)
-- Returns how many were taken out.
local dropped = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  local ours = consumer.name:sub(1, #ARGV[2]) == ARGV[2]
  if ours and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    dropped = dropped + 1
  end
end
return dropped
