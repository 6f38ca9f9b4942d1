-- What a session stands for, in one call, since each request of a browser asks.
-- KEYS: session, tokens, what is followed by a name: until when all of theirs are over
-- Returns what is kept of it, the token that it names as that stands now, until when it may be over; false for what there
-- is not.
local kept = redis.call('GET', KEYS[1])
if not kept then return {false, false, false} end
local named, token = kept, false
if kept:sub(1, 6) == 'token ' then
  token = redis.call('HGET', KEYS[2], kept:match('^token %d+ (%S+)'))
  named = token
end
local name = named and named:match('%S+$')
return {kept, token, name and redis.call('GET', KEYS[3] .. name)}
