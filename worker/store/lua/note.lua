-- Appends to the audit trail what is no part of another step: a refusal.
-- ARGV: who, deed, batch ID or '', then further fields and values
note(unpack(ARGV))
