"""The report as CSV (SPEC 9): RFC 4180, every cell guarded against being run as a formula."""

import csv
from collections.abc import Sequence
from functools import lru_cache

from worker.domain.outcomes import Outcome
from worker.domain.spreadsheet import guard
from worker.reports.columns import COLUMNS, ReportRow, rfc3339, words


class CsvLines:
    """Header and rows as lines of text, CRLF included.

    ``csv.writer`` looks at each letter twice, so it is asked only where something is to be quoted, and once for the
    words that many rows have in common.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._quoting = csv.writer(_Echo(), delimiter=delimiter, lineterminator="\r\n")
        self._words = lru_cache(maxsize=512)(lambda *told: self._text(words(*told)))

    def header(self, columns: Sequence[str]) -> str:
        """The first line."""
        return self._text([*map(guard, columns), *COLUMNS]) + "\r\n"

    def line(self, row: ReportRow) -> str:
        """The line of a row."""
        number, cells, result, batch = row
        first = [*map(guard, cells), str(number)]
        if result is None:
            return self._text([*first, Outcome.PENDING.value, *[""] * 9, guard(batch)]) + "\r\n"
        reason, http_status, attempts, request_id, missing_field, _, first_row, note, finished_at = result
        last = [
            guard(request_id) if request_id else "",
            "" if finished_at is None else rfc3339(finished_at),
            "" if first_row is None else str(first_row),
            guard(batch),
        ]
        told, delimiter = self._words(reason, missing_field, note, http_status, attempts), self._delimiter
        return f"{self._text(first)}{delimiter}{told}{delimiter}{self._text(last)}\r\n"

    def _text(self, cells: Sequence[str]) -> str:
        text = self._delimiter.join(cells)
        if '"' in text or "\r" in text or "\n" in text or text.count(self._delimiter) >= len(cells):
            quoted: str = self._quoting.writerow(cells)
            return quoted.removesuffix("\r\n")
        return text


class _Echo:
    """Hands back what is written to it."""

    def write(self, text: str) -> str:
        return text
