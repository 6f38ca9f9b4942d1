-- Releases customers from hold, all or none (SPEC 6).
-- KEYS: holds, hold ends
-- ARGV: IDs as a JSON array, who does it, environment and merchant for the audit trail, which has no customer
-- Returns the positions of those that are not on hold; if there are any, nothing was released.
drop_ended(KEYS[1], KEYS[2])
local ids, unknown = cjson.decode(ARGV[1]), {}
for at, id in ipairs(ids) do
  if redis.call('HEXISTS', KEYS[1], id) == 0 then unknown[#unknown + 1] = at - 1 end
end
if #unknown > 0 then return unknown end
for _, id in ipairs(ids) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
note(ARGV[2], 'released', '', 'customers', #ids, 'environment', ARGV[3], 'merchant', ARGV[4])
return {}
