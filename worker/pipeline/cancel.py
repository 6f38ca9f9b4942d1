"""Gives the pending records of a cancelled batch their outcome."""

import time

from worker.domain.records import History
from worker.pipeline.endings import cancelled
from worker.store.shards import Claim, Shards, Written

_UNTRIED = History()  # asked for several times a record, so not made anew each time


async def settle_cancelled(shards: Shards, claim: Claim) -> None:
    """Write what each pending record of a claimed shard is now.

    Nothing is sent. A record that may have been deleted is ``unknown``, not ``skipped``. Raises ``RedisError``.
    """
    pending = [offset for offset in range(len(claim.ids)) if offset not in claim.finished]
    written = [Written(at, claim.ids[at], cancelled(history_of(claim, at))) for at in pending]
    await shards.record(claim, written, time.time())


def history_of(claim: Claim, offset: int) -> History:
    """What is known of a record's attempts by earlier holders of its shard."""
    history = claim.histories.get(offset, _UNTRIED)
    return history.interrupted() if claim.deaths else history
