-- Moves a batch from one state to another, if it is in that state (SPEC 5).
-- KEYS: meta, tally, shards, holders, parked
-- ARGV: batch ID, prefix of the batch's keys, retention (s), state it must be in, new state, its reason or '', who does it
-- Returns {1 if moved else 0, state} as they are afterwards. A batch with nothing pending completes instead of running,
-- and one with something pending does not complete; cancelled, it stays active until every record has its outcome.
-- One that waits for the upstream counts as running, since it resumes by itself. To let go on what awaits approval is to
-- approve it: of the input with this SHA-256, which never changes.
local batch, meta, to, reason, actor = ARGV[1], KEYS[1], ARGV[5], ARGV[6], ARGV[7]
local state = redis.call('HGET', meta, 'state') or 'gone'
local nothing_pending = redis.call('HGET', KEYS[2], 'pending') == '0'
local fits = state == ARGV[4] or (ARGV[4] == 'running' and standing(meta) == 'waiting')
if not fits or (to == 'completed' and not nothing_pending) then return {0, state} end

if state == 'awaiting_approval' and to == 'running' then
  redis.call('HSET', meta, 'approved_by', actor, 'approved_at', now_ms())
  note(actor, 'approved', batch, 'sha256', redis.call('HGET', meta, 'sha256'))
elseif to == 'running' then
  note(actor, 'resumed', batch)
elseif to == 'paused' then
  note(actor, 'paused', batch, 'reason', reason)
elseif to == 'cancelled' then
  note(actor, 'cancelled', batch)
end

if to == 'running' and nothing_pending then to = 'completed' end
if to == 'completed' or (to == 'cancelled' and nothing_pending) then
  end_batch(batch, ARGV[2], meta, to, ARGV[3])
  return {1, to}
end

if to == 'running' or to == 'cancelled' then
  activate(meta, batch)
  make_due(KEYS[3], KEYS[4], KEYS[5])
else
  deactivate(meta, batch)
end
redis.call('HSET', meta, 'state', to)
redis.call('HDEL', meta, 'state_reason', 'probe_at')
if reason ~= '' then redis.call('HSET', meta, 'state_reason', reason) end
return {1, to}
