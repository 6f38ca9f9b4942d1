-- Forgets dead letters: somebody decided that what they ask for is not done.
-- KEYS: dead letters
-- ARGV: who, environment, merchant, then the letters' IDs, the oldest first
-- Returns how many there were; answers 0 if asked twice, and notes nothing.
local ids = {unpack(ARGV, 4)}
local count = redis.call('XDEL', KEYS[1], unpack(ids))
if count > 0 then
  note(ARGV[1], 'dead_letters_removed', '', 'letters', count, 'first', ids[1], 'last', ids[#ids],
    'environment', ARGV[2], 'merchant', ARGV[3])
end
return count
