"""Rates over time of the batches that somebody looks at, read anew every few seconds, however many look."""

import time
from collections import OrderedDict

from worker.domain.batches import Batch
from worker.store.finished import Finished
from worker.web.pages.views import OFTEN, SENT, RateChart, rate_chart, sent_of

_MOST = 200


class Charts:
    """The newest chart of each batch that was asked for lately."""

    def __init__(self, finished: Finished) -> None:
        self._finished = finished
        self._made: OrderedDict[str, tuple[float, RateChart | None]] = OrderedDict()

    async def of(self, batch: Batch) -> RateChart | None:
        """How many records ended when; ``None`` while none has. A few seconds old unless the batch has ended."""
        sent = sent_of(batch.tally)
        if not sent:
            return None
        until, chart = self._made.get(batch.id, (0.0, None))
        if time.monotonic() >= until or chart is None:
            self._made[batch.id] = (time.monotonic() + OFTEN, chart)  # others need not ask meanwhile
            ends = await self._finished.ends(batch, SENT)
            chart = rate_chart(ends.times, None if ends.every else sent)
            until = float("inf") if batch.ended_at is not None else time.monotonic() + OFTEN
            self._made[batch.id] = (until, chart)
        self._made.move_to_end(batch.id)
        while len(self._made) > _MOST:
            self._made.popitem(last=False)
        return chart
