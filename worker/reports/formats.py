"""Which formats can be written here, and which reports fit into one: asked before anything is done (SPEC 9)."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from worker.domain.errors import FormatError
from worker.reports.columns import COLUMNS, ReportFormat

_LIBRARIES = {ReportFormat.XLSX: "xlsxwriter", ReportFormat.PARQUET: "pyarrow"}
XLSX_ROWS = 1_048_575
"""Of a sheet, the header left out."""
XLSX_ROWS_OVER_HTTP = 100_000
"""It is made as a whole before its first byte is sent, in 15 s of a core for so many."""
_XLSX_COLUMNS = 16_384
_XLSX_CELL = 32_767
"""UTF-16 units, as Excel counts them."""
_OTHERS = "take csv, jsonl or parquet"


def is_installed(report_format: ReportFormat) -> bool:
    """Whether the library of an optional format is there; it is not imported."""
    return report_format not in _LIBRARIES or find_spec(_LIBRARIES[report_format]) is not None


def is_made_over_http(report_format: ReportFormat, rows: int) -> bool:
    """Whether a report of so many rows is made for somebody who waits for its first byte."""
    return report_format is not ReportFormat.XLSX or rows <= XLSX_ROWS_OVER_HTTP


def check_format(report_format: ReportFormat, rows: int = 0, columns: Sequence[str] = ()) -> None:
    """Raise FormatError if a report of so many rows and of these input columns cannot be written in this format."""
    if not is_installed(report_format):
        extra = report_format.value
        raise FormatError(f"{extra} is an extra that is not installed: pip install 'expunge[{extra}]', or take csv")
    if report_format is not ReportFormat.XLSX:
        return
    if rows > XLSX_ROWS:
        raise FormatError(
            f"the report has {rows:,} rows, and a sheet of xlsx holds {XLSX_ROWS:,}: {_OTHERS}, or fewer rows by --only"
        )
    width = len(columns) + len(COLUMNS)
    if width > _XLSX_COLUMNS:
        raise FormatError(f"the report has {width:,} columns, and a sheet of xlsx holds {_XLSX_COLUMNS:,}: {_OTHERS}")
    for name in columns:
        check_cell(name, "the header")


def check_cells(report_format: ReportFormat, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Raise FormatError for the first input cell that is too long; of other formats, ``rows`` is not read."""
    if report_format is ReportFormat.XLSX:
        for number, cells in enumerate(rows, 1):
            for name, cell in zip(columns, cells, strict=True):
                if len(cell) > _XLSX_CELL // 2:
                    check_cell(cell, f"row {number:,}, column {name[:40]!r}")


def check_cell(cell: str, where: str) -> None:
    """Raise FormatError if a cell of xlsx cannot hold it: Excel would cut it off without a word."""
    if len(cell) > _XLSX_CELL // 2:
        size = len(cell.encode("utf-16-le", "surrogatepass")) // 2
        if size > _XLSX_CELL:
            raise FormatError(f"{where}: {size:,} characters, and a cell of xlsx holds {_XLSX_CELL:,}: {_OTHERS}")
