-- Batches as they stand at one moment. In a transaction, some servers would refuse to read while they are full.
-- KEYS: of each its meta and its tally
-- Returns of each key its fields and values.
local found = {}
for at, key in ipairs(KEYS) do found[at] = redis.call('HGETALL', key) end
return found
