-- Acknowledges entries of a stream. As one argument, since a client takes long over a thousand.
-- KEYS: the stream
-- ARGV: group, whether they are deleted from it as well (1 or 0), IDs joined by a space
local ids = {}
for id in ARGV[3]:gmatch('%S+') do ids[#ids + 1] = id end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
if ARGV[2] == '1' then redis.call('XDEL', KEYS[1], unpack(ids)) end
