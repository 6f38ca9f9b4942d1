"""The rows of a report that is made without the submitted file."""

from collections.abc import Iterable, Iterator

from worker.domain.batches import Batch
from worker.reports.columns import ReportRow
from worker.store.batches import Line


def columns_of(batch: Batch) -> tuple[str, ...]:
    """What such a report has beside our own columns."""
    return (batch.description.id_column,)


def rows_of(batch: Batch, lines: Iterable[Line]) -> Iterator[ReportRow]:
    """A row for each record, with its ID under ``columns_of``."""
    for line in lines:
        yield ReportRow(line.row, (line.customer_id,), line.result, batch.id)
