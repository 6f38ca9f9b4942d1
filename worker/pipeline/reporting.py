"""The rows of a report that is made without the submitted file."""

from collections.abc import Iterable, Iterator

from worker.domain.batches import Batch
from worker.reports.columns import ReportRow
from worker.store.batches import Line


def rows_of(batch: Batch, lines: Iterable[Line]) -> Iterator[ReportRow]:
    """A row for each record, with its cells under the description's ``stored_columns``."""
    for line in lines:
        yield ReportRow(line.row, line.cells, line.result, batch.id)
