-- Keeps a new token.
-- KEYS: tokens, names
-- ARGV: ID, digest, name, role, who adds it ('' for somebody without a name, who can add only the first)
-- Returns "ok" | "not_first"; answers the same if asked twice.
local id, digest, name, role, actor = unpack(ARGV)
if redis.call('HEXISTS', KEYS[1], id) == 1 then return 'ok' end
if actor == '' and redis.call('HLEN', KEYS[1]) > 0 then return 'not_first' end
redis.call('HSET', KEYS[1], id, table.concat({role, string.format('%d', now_ms()), digest, name}, ' '))
redis.call('SADD', KEYS[2], name)
redis.call('EXPIRE', KEYS[2], KEEP_AUDIT)
note(actor, 'token_added', '', 'token', id, 'name', name, 'role', role)
return 'ok'
