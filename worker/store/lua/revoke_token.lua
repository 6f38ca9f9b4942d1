-- Forgets a token, but not the last of an admin: nobody could make another.
-- KEYS: tokens, IDs of revoked ones
-- ARGV: ID, who revokes it
-- Returns "ok" | "gone" | "last_admin".
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept then return 'gone' end
local role, name = kept:match('^(%S+) %S+ %S+ (%S+)$')
if role == 'admin' then
  local admins = 0
  for _, other in ipairs(redis.call('HVALS', KEYS[1])) do
    if other:sub(1, 6) == 'admin ' then admins = admins + 1 end
  end
  if admins == 1 then return 'last_admin' end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], KEEP_AUDIT)
note(ARGV[2], 'token_revoked', '', 'token', ARGV[1], 'name', name, 'role', role)
return 'ok'
