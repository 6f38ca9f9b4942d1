"""What the first row of an input says (SPEC 8): its delimiter, its columns, and the one that holds the IDs."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError
from worker.domain.spreadsheet import unguard
from worker.intake.rows import RowReader
from worker.intake.source import Source

DELIMITERS = (",", ";", "\t", "|")
OUTCOME_COLUMN = "expunge_outcome"
_OUR_PREFIX = "expunge_"

_ID_WORDS = frozenset({"id", "ids", "customerid", "customerids", "clientid", "userid", "accountid", "uuid", "guid"})
_NUMBERED_NAME = re.compile(
    r"(column|col|field|spalte|colonne|columna|var|unnamed|header|_c|f|v|x)[ _-]?\d{1,3}_?", re.IGNORECASE
)
_MANY_DIGITS = re.compile(r"(\D*\d){4}")


@dataclass(frozen=True, slots=True)
class Header:
    """The form of an input."""

    delimiter: str
    names: tuple[str, ...]
    """Every column as the file names it, ours included."""
    id_index: int
    present: bool
    """Whether the file's first row is a header, and not a record."""

    @property
    def outcome_index(self) -> int | None:
        """Where a report has its outcomes; None if the input is no report of ours."""
        names = [name.strip() for name in self.names]
        return names.index(OUTCOME_COLUMN) if OUTCOME_COLUMN in names else None

    @property
    def kept(self) -> tuple[int, ...]:
        """The columns that are the input's own."""
        return tuple(i for i, name in enumerate(self.names) if not name.strip().startswith(_OUR_PREFIX))


class _FirstRow(NamedTuple):
    delimiter: str
    line: int
    cells: list[str]


def read_header(source: Source, column: str, rule: IdRule) -> Header:
    """Find the delimiter and the ID column; raises InputError when the first row leaves a doubt.

    The delimiter is, of ``, ; tab |``, the one by which the first row has the wanted column; if that holds for several
    or for none, the one that makes the most cells; then the first in this order.

    A file without a header is taken only if it has one column and its first cell is an acceptable ID that contains a
    digit and is no name such as ``id`` or ``Column1``: a header must never be deleted as a customer.
    """
    row = _first_row(source, column)
    cells = row.cells
    if any(cell.strip() == OUTCOME_COLUMN for cell in cells):
        cells = [unguard(cell) for cell in cells]
    index = _find(cells, column)
    if index is not None:
        _refuse_repeated(source, row.line, cells, cells[index].strip())
        return Header(row.delimiter, tuple(cells), index, present=True)
    if len(cells) > 1:
        raise _no_such_column(source, row, column)
    _check_is_record(source, row, column, rule)
    return Header(row.delimiter, (column,), 0, present=False)


def _first_row(source: Source, column: str) -> _FirstRow:
    rows: list[_FirstRow] = []
    problems: list[tuple[int, str]] = []
    for delimiter in DELIMITERS:
        for line, cells, problem in RowReader(source.read().stream, delimiter):
            if problem is None:
                rows.append(_FirstRow(delimiter, line, cells))
            else:
                problems.append((line, problem))
            break
    best = max(rows, key=lambda row: (_find(row.cells, column) is not None, len(row.cells)), default=None)
    if best is not None and (not problems or _find(best.cells, column) is not None or '"' not in "".join(best.cells)):
        return best
    if problems:
        # of one delimiter or of all; a quote left in the cells shows that the other delimiters only missed the problem
        line, problem = problems[0]
        raise InputError(source.path, problem, line)
    raise InputError(source.path, "is empty: it needs a header line and one line for each customer")


def _find(cells: list[str], column: str) -> int | None:
    """The column of exactly this name, or else the only one that differs in case alone."""
    names = [cell.strip() for cell in cells]
    wanted = column.strip()
    if wanted in names:
        return names.index(wanted)
    folded = [name.casefold() for name in names]
    return folded.index(wanted.casefold()) if folded.count(wanted.casefold()) == 1 else None


def _refuse_repeated(source: Source, line: int, cells: list[str], name: str) -> None:
    times = Counter(cell.strip() for cell in cells)[name]
    if times > 1:
        raise InputError(source.path, f"has {times} columns named '{name}': rename all but the one with the IDs", line)


def _no_such_column(source: Source, row: _FirstRow, column: str) -> InputError:
    names = [cell.strip() for cell in row.cells]
    if any("@" in name or _MANY_DIGITS.match(name) for name in names):
        # the cells themselves may be a customer's data, so they are not named
        problem = f"has no column '{column}', and its first line looks like data: add a header line, or use --column"
        return InputError(source.path, problem, row.line)
    shown = ", ".join(f"'{name[:40]}'" for name in names[:20]) + (", …" if len(names) > 20 else "")
    return InputError(source.path, f"has no column '{column}', but {shown}: name one with --column", row.line, names)


def _check_is_record(source: Source, row: _FirstRow, column: str, rule: IdRule) -> None:
    cell = row.cells[0].strip()
    ways = f"name it with --column, or add a header line '{column}'"
    if "@" not in cell and (not any(map(str.isdigit, cell)) or _is_name(cell, column)):
        problem = f"its first line '{cell[:40]}' looks like a header, but is not '{column}': {ways}"
        raise InputError(source.path, problem, row.line, [cell])
    if not rule.accepts(cell):
        problem = f"its first line is neither a header nor an acceptable customer ID: {ways}"
        raise InputError(source.path, problem, row.line)


def _is_name(cell: str, column: str) -> bool:
    """Whether a cell with a digit is the name of a column rather than an ID."""
    letters = "".join(filter(str.isalpha, cell)).casefold()
    wanted = "".join(filter(str.isalpha, column)).casefold()
    short = sum(map(str.isdigit, cell)) <= 2
    return (short and (letters == wanted or letters in _ID_WORDS)) or _NUMBERED_NAME.fullmatch(cell) is not None
