"""How soon those who send hear of a pause or a hold (SPEC 4, promise 7)."""

from worker.pacing.pace import AHEAD

FLUSH_EVERY = 0.25
"""Seconds between two writes of outcomes: also how soon a pause is noticed and a lease renewed."""
NOTICED = 2 * FLUSH_EVERY + AHEAD
"""Seconds for which what the store said of pauses and holds is news. Nothing is sent by older knowledge, so that after
as long a pause or hold has been noticed by everybody."""
