-- Moves a batch from one state to another, if it is in that state (SPEC 5).
-- KEYS: meta, tally, shards, holders, parked
-- ARGV: batch ID, prefix of the batch's keys, retention (s), state it must be in, new state, its reason or '', who does it,
--       the brake despite which it shall run or ''
-- Returns {1 if moved else 0, state} as they are afterwards. A batch with nothing pending completes instead of running,
-- and one with something pending does not complete; cancelled, it stays active until every record has its outcome.
-- One that waits for the upstream counts as running, since it resumes by itself. One that a brake holds runs only despite
-- it, and then is not held by the same again. To let go on what awaits approval is to approve it: of the input with this
-- SHA-256, which never changes.
local batch, meta, to, reason, actor, despite = ARGV[1], KEYS[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local state = redis.call('HGET', meta, 'state') or 'gone'
local nothing_pending = redis.call('HGET', KEYS[2], 'pending') == '0'
local fits = state == ARGV[4] or (ARGV[4] == 'running' and standing(meta) == 'waiting')
if not fits or (to == 'completed' and not nothing_pending) then return {0, state} end

local tripped = redis.call('HMGET', meta, 'state_reason', 'tripped', 'despite')
if to == 'running' and tripped[2] then
  local canary = despite == 'canary' and tripped[2]:sub(-1) == '1'
  if despite ~= tripped[1] and not canary then return {0, state} end
  redis.call('HSET', meta, 'despite', (tripped[3] and tripped[3] .. ' ' or '') .. despite)
  redis.call('HDEL', meta, 'canary_left')
end

if state == 'awaiting_approval' and to == 'running' then
  redis.call('HSET', meta, 'approved_by', actor, 'approved_at', now_ms())
  note(actor, 'approved', batch, 'sha256', redis.call('HGET', meta, 'sha256'))
elseif to == 'running' then
  if despite == '' then note(actor, 'resumed', batch) else note(actor, 'resumed', batch, 'despite', despite) end
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
redis.call('HDEL', meta, 'state_reason', 'probe_at', 'tripped')
if reason ~= '' then redis.call('HSET', meta, 'state_reason', reason) end
return {1, to}
