"""A report read back, row by row however large it is (SPEC 9)."""

import csv
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import orjson

from worker.domain.spreadsheet import unguard
from worker.reports.columns import COLUMNS, ReportFormat

if TYPE_CHECKING:
    import _csv

READABLE = frozenset({ReportFormat.CSV, ReportFormat.JSONL})
"""The formats that can be read back."""
_DELIMITERS = ",;\t|"
_LONGEST = 1 << 20  # bytes of a line; the longest row that is taken has 64 KiB
_ROW, _OUTCOME, _REASON, _RETRYABLE, _STATUS, _FIRST, _BATCH = (
    COLUMNS.index(f"expunge_{name}")
    for name in ("row", "outcome", "reason", "retryable", "http_status", "first_row", "batch")
)

Wrong = Callable[[str], None]
"""Takes what is wrong, with its place."""


class Line(NamedTuple):
    """One row of a report; numbers that are none are None."""

    number: int | None
    cells: Sequence[str]
    """The input's, without guards."""
    outcome: str
    reason: str
    retryable: str
    http_status: str
    first_row: str
    batch: str


class Report(NamedTuple):
    """A report that is being read."""

    columns: tuple[str, ...] | None
    """The input's, as the report names them; None if there is no row of JSON Lines to tell."""
    lines: Iterator[Line | None]
    """None for a row that cannot be read, of which ``wrong`` was told."""


def read_report(file: BinaryIO, report_format: ReportFormat, wrong: Wrong) -> Report:
    """Begin at the file's first byte; what is no row of a report is told to ``wrong``, and reading goes on."""
    if report_format is ReportFormat.JSONL:
        return _jsonl_report(file, wrong)
    return _csv_report(file, wrong)


def _csv_report(file: BinaryIO, wrong: Wrong) -> Report:
    head = file.read(_LONGEST).decode("utf-8", "replace")
    file.seek(0)
    delimiter = next((each for each in _DELIMITERS if each.join(COLUMNS) in head), ",")
    rows = csv.reader(_texts(file, wrong), delimiter=delimiter, strict=True)
    header = _next(rows) or []
    at = header.index(COLUMNS[0]) if COLUMNS[0] in header else 0
    if not _are_ours(header[at:]):
        wrong("line 1: has not the columns of a report")
        return Report((), iter(()))
    return Report(tuple(map(unguard, header[:at])), _csv_lines(rows, at, len(header), wrong))


def _csv_lines(rows: "_csv.Reader", own: int, width: int, wrong: Wrong) -> Iterator[Line | None]:
    while (cells := _next(rows)) is not None:
        if len(cells) == width:
            yield _line([unguard(cell) for cell in cells[:own]], cells[own:])
            continue
        if cells:
            wrong(f"line {rows.line_num}: has {len(cells)} cells, but the header has {width}")
        else:
            wrong(f"line {rows.line_num}: is empty or no CSV")
        yield None


def _are_ours(names: Sequence[str]) -> bool:
    """Whether these are the columns behind the input's: ours, each once, and those that a later release may add."""
    more = names[len(COLUMNS) :]
    return (
        tuple(names[: len(COLUMNS)]) == COLUMNS
        and len(set(names)) == len(names)
        and all(name.startswith("expunge_") for name in more)
    )


def _next(rows: "_csv.Reader") -> list[str] | None:
    """The next row, empty if it is no CSV; None at the end."""
    try:
        return next(rows, None)
    except csv.Error:
        return []


def _jsonl_report(file: BinaryIO, wrong: Wrong) -> Report:
    first = file.readline(_LONGEST)
    file.seek(0)
    values = _object(first.removeprefix(BOM_UTF8))
    columns = None if values is None else tuple(takewhile(lambda name: name != COLUMNS[0], values))
    return Report(columns, _jsonl_lines(file, columns or (), wrong))


def _jsonl_lines(file: BinaryIO, columns: tuple[str, ...], wrong: Wrong) -> Iterator[Line | None]:
    for at, text in enumerate(_texts(file, wrong), 1):
        values = _object(text)
        if values is None or tuple(values)[: len(columns)] != columns or not _are_ours([*values][len(columns) :]):
            wrong(f"line {at}: is no row of this report")
            yield None
            continue
        told = [_cell(values[name]) for name in COLUMNS]
        yield _line([str(values[name]) for name in columns], told)


def _cell(value: object) -> str:
    """As CSV has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _object(text: str | bytes) -> dict[str, object] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _texts(file: BinaryIO, wrong: Wrong) -> Iterator[str]:
    number = 0
    while raw := file.readline(_LONGEST):
        number += 1
        if number == 1 and raw.startswith(BOM_UTF8):
            raw = raw.removeprefix(BOM_UTF8)
            wrong("line 1: begins with a byte order mark, as a spreadsheet writes: it was saved anew")
        try:
            yield raw.decode()
        except UnicodeDecodeError:
            wrong(f"line {number}: is not UTF-8")
            yield raw.decode("utf-8", "replace")


def _line(cells: Sequence[str], told: Sequence[str]) -> Line:
    of_reason = told[_OUTCOME], told[_REASON], told[_RETRYABLE]
    return Line(whole(told[_ROW]), cells, *of_reason, told[_STATUS], told[_FIRST], unguard(told[_BATCH]))


def whole(text: str) -> int | None:
    """The number from 1 that a cell holds, written as reports write it."""
    is_one = text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 19
    return int(text) if is_one else None
