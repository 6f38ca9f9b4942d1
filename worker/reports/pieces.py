"""A report made piece by piece, whatever its format; the library of an optional one is imported here and not before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, assert_never

from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.csv_report import CsvLines
from worker.reports.jsonl_report import JsonLines


class Pieces(Protocol):
    """Takes rows and gives bytes, which are the report if they are put together."""

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        """Take the next rows; gives what is ready."""

    def end(self) -> Iterator[bytes]:
        """Give what is left, when all rows are taken."""

    def close(self) -> None:
        """Let go of what it holds, also where it was left half way; safe to call twice."""


def pieces_of(report_format: ReportFormat, columns: Sequence[str], delimiter: str = ",") -> Pieces:
    """The maker of a report of these input columns; raises FormatError if the format cannot hold them."""
    match report_format:
        case ReportFormat.CSV:
            lines = CsvLines(delimiter)
            return _TextPieces(lines.line, lines.header(columns))
        case ReportFormat.JSONL:
            return _TextPieces(JsonLines(columns).line)
        case ReportFormat.XLSX:
            from worker.reports.xlsx_report import XlsxPieces  # noqa: PLC0415 - an extra

            return XlsxPieces(columns)
        case ReportFormat.PARQUET:
            from worker.reports.parquet_report import ParquetPieces  # noqa: PLC0415 - an extra

            return ParquetPieces(columns)
        case _:
            assert_never(report_format)


def encoded(text: str) -> bytes:
    """UTF-8; an upstream's request ID may hold half a surrogate pair, and must not cost the report."""
    return text.encode("utf-8", "backslashreplace")


class _TextPieces:
    """A text format: each row is a line."""

    def __init__(self, line: Callable[[ReportRow], str], head: str = "") -> None:
        self._line, self._head = line, head

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        head, self._head = self._head, ""
        return encoded(head + "".join(map(self._line, rows)))

    def end(self) -> Iterator[bytes]:
        yield encoded(self._head)

    def close(self) -> None:
        pass
