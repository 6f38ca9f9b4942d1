"""The report as CSV (SPEC 9): RFC 4180, every cell guarded against being run as a formula."""

import csv
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from worker.domain.spreadsheet import guard
from worker.reports.columns import COLUMNS, ReportRow, strings

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


def write_csv(
    out: "SupportsWrite[str]", columns: Sequence[str], rows: Iterable[ReportRow], *, delimiter: str = ","
) -> None:
    """Write header and rows as text with CRLF line ends, one after the other; nothing is held back.

    ``out``, if it is a text file, must be opened with ``newline=""``. ``delimiter`` is one character.
    """
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow([*map(guard, columns), *COLUMNS])
    writer.writerows([*map(guard, row.cells), *strings(row)] for row in rows)
