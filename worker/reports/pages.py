"""A report made page by page, for whoever asks for the next page: nothing is held back, and no file is needed."""

import hashlib
from collections.abc import Iterable, Sequence

from worker.domain.outcomes import Outcome
from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.csv_report import CsvLines
from worker.reports.jsonl_report import JsonLines
from worker.reports.writing import Written, encoded


class ReportPages:
    """Turns rows into the report's bytes; call ``begin`` once, then ``add`` with the rows in their order."""

    def __init__(
        self,
        report_format: ReportFormat,
        columns: Sequence[str],
        *,
        delimiter: str = ",",
        only: frozenset[Outcome] | None = None,
    ) -> None:
        self._format, self._only = report_format, only
        self._digest, self._lines = hashlib.sha256(), 0
        self._head = ""
        if report_format is ReportFormat.CSV:
            csv_lines = CsvLines(delimiter)
            self._head, self._line = csv_lines.header(columns), csv_lines.line
        else:
            self._line = JsonLines(columns).line

    def begin(self) -> bytes:
        """What comes before the rows."""
        return self._given(self._head)

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        """The next rows, of those the ones that are asked for."""
        only = self._only
        lines = [self._line(row) for row in rows if only is None or row.outcome in only]
        self._lines += len(lines)
        return self._given("".join(lines))

    @property
    def written(self) -> Written:
        """What has been made so far, as a manifest tells it."""
        return Written(None, self._digest.hexdigest(), self._lines, self._format, self._only)

    def _given(self, text: str) -> bytes:
        data = encoded(text)
        self._digest.update(data)
        return data
