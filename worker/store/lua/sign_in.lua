-- Begins a session of somebody whom an identity provider knows. Their name stays that of their first time, and nobody
-- else at the provider gets it: whoever submitted cannot come back under another name to approve.
-- KEYS: identities, session
-- ARGV: who it is to the provider, the claim of the name, name, role, what decides who is who, seconds
-- Returns the name, or false if it is somebody else's; answers the same if asked twice.
local subject, claim, name, role, mark, lasts = unpack(ARGV)
local as = 'name ' .. subject .. ' ' .. claim
local known = redis.call('HGET', KEYS[1], as)
if not known then
  local owner = redis.call('HGET', KEYS[1], 'owner ' .. name)
  if owner and owner ~= subject then return false end
  redis.call('HSET', KEYS[1], as, name, 'owner ' .. name, subject)
  known = name
end
redis.call('EXPIRE', KEYS[1], KEEP_AUDIT)
local session = table.concat({'provider', string.format('%d', now_ms()), mark, role, known}, ' ')
if redis.call('SET', KEYS[2], session, 'NX', 'EX', lasts) then note(known, 'signed_in', '', 'role', role) end
return known
