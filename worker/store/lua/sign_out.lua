-- Ends all sessions of somebody on the pages: those that began until now.
-- KEYS: the time until which theirs are over
-- ARGV: whose, seconds that a session lasts at most, who ends them
redis.call('SET', KEYS[1], string.format('%d', now_ms()), 'EX', ARGV[2])
note(ARGV[3], 'signed_out', '', 'name', ARGV[1])
