"""The rows of a report: those that are made without the submitted file, and how many there will be."""

from collections.abc import Iterable, Iterator

from worker.domain.batches import Batch
from worker.domain.outcomes import Outcome
from worker.reports.columns import ReportRow
from worker.store.batches import Line


def rows_of(batch: Batch, lines: Iterable[Line]) -> Iterator[ReportRow]:
    """A row for each record, with its cells under the description's ``stored_columns``."""
    for line in lines:
        yield ReportRow(line.row, line.cells, line.result, batch.id)


def rows_asked(batch: Batch, only: frozenset[Outcome] | None) -> int:
    """How many rows its report has now; of a batch in work, what is filtered may become more meanwhile."""
    tally = batch.tally.by_outcome()
    return sum(tally[outcome.value] for outcome in only) if only is not None else batch.description.rows
