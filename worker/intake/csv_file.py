"""A CSV file of customers to delete (SPEC 8), read row by row however large it is.

``inspect`` reads it once and checks everything (twice if it has duplicates), ``rows`` reads it again, and ``cells``
once more when its columns are joined to the report. A report of ours is accepted too: its ``expunge_*`` columns are
dropped and its rows that are deleted or absent are left out, as if they were not in the file (SPEC 9).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from worker.domain.customer_ids import IdRule
from worker.domain.errors import Guard, InputError, RefusedError
from worker.domain.outcomes import GONE, Reason
from worker.domain.spreadsheet import unguard
from worker.intake.duplicates import Candidates, Duplicates, Sieve
from worker.intake.header import Header, read_header
from worker.intake.problems import problem_of
from worker.intake.rows import ParsedRow, RowReader
from worker.intake.source import GIBIBYTE, Reading, Source

DEFAULT_COLUMN = "customer_id"
MAX_ROWS = 1_000_000
MAX_UNPACKED = 4 * GIBIBYTE
_SAMPLES = 20
_GONE_WORDS = frozenset(outcome.value for outcome in GONE)


class Row(NamedTuple):
    """One row of the input."""

    number: int
    """From 1; the header, empty lines and rows left out are not counted (``expunge_row``)."""
    customer_id: str
    """Without surrounding white space, leading zeros kept; empty if the whole row is broken."""
    reason: Reason | None
    """``INVALID_ID`` or ``DUPLICATE``; None if the customer is to be deleted."""
    first_row: int | None
    """Of a duplicate: the number of the row that stands for it."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file holds: ``rows`` = ``valid`` + ``invalid`` + ``duplicates``."""

    source: str
    """The file's name without its directories."""
    sha256: str
    """Of the file's bytes as given, packed or not; lower-case hex."""
    rows: int
    valid: int
    """Rows to be processed."""
    invalid: int
    """Rows whose ID is not acceptable, broken rows included."""
    invalid_samples: tuple[tuple[int, str], ...]
    """The first 20 of them: line in the file and what is wrong, without the ID itself."""
    duplicates: int
    columns: tuple[str, ...]
    id_column: str
    delimiter: str
    bad_rows: int
    """Rows that could not be read as CSV and were let through by ``skip_bad_rows``."""


_Identified = tuple[int, int, str | None, str | None]


class _Counts(NamedTuple):
    sha256: str
    rows: int
    invalid: int
    bad_rows: int
    samples: tuple[tuple[int, str], ...]
    candidates: Candidates


class CsvFile:
    """An opened input; use it in a ``with`` statement. Its iterators may run side by side."""

    def __init__(self, source: Source, header: Header, rule: IdRule, *, skip_bad_rows: bool, max_rows: int) -> None:
        """For ``open``, which callers want."""
        self._source = source
        self._header = header
        self._rule = rule
        self._skip_bad_rows = skip_bad_rows
        self._max_rows = max_rows
        self._inspection: Inspection | None = None
        self._duplicates = Duplicates()

    @classmethod
    def open(
        cls,
        path: str | Path | Source,
        *,
        column: str = DEFAULT_COLUMN,
        rule: IdRule,
        skip_bad_rows: bool = False,
        max_rows: int = MAX_ROWS,
        max_unpacked: int = MAX_UNPACKED,
    ) -> "CsvFile":
        """Open a file, standard input for ``-``, or a source that is open already, and read its header.

        ``max_unpacked`` is in bytes and holds for gzip files and for what has to be copied first, such as standard
        input. With ``skip_bad_rows``, rows that are no CSV become invalid ones instead of errors. Raises InputError.
        """
        source = path if isinstance(path, Source) else Source.open(path, max_unpacked)
        try:
            source.check_encoding()
            header = read_header(source, column, rule)
        except BaseException:
            source.close()
            raise
        return cls(source, header, rule, skip_bad_rows=skip_bad_rows, max_rows=max_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of a temporary copy; safe to call twice."""
        self._source.close()

    @property
    def columns(self) -> tuple[str, ...]:
        """The input's own columns, in order."""
        return tuple(self._header.names[i] for i in self._header.kept)

    @property
    def id_column(self) -> str:
        """The name of the ID column as the file has it."""
        return self._header.names[self._header.id_index]

    def inspect(self) -> Inspection:
        """Check every row and count; a second call returns the same without reading.

        Raises InputError for the first broken row (unless they are skipped), for a file without rows, and if the file
        changes meanwhile; RefusedError if it has more than ``max_rows`` rows.
        """
        if self._inspection is None:
            counts = self._count()
            self._duplicates = self._resolve(counts)
            self._inspection = Inspection(
                source=self._source.name,
                sha256=counts.sha256,
                rows=counts.rows,
                valid=counts.rows - counts.invalid - len(self._duplicates),
                invalid=counts.invalid,
                invalid_samples=counts.samples,
                duplicates=len(self._duplicates),
                columns=self.columns,
                id_column=self.id_column,
                delimiter=self._header.delimiter,
                bad_rows=counts.bad_rows,
            )
        return self._inspection

    def rows(self) -> Iterator[Row]:
        """Every row in the file's order, checked as in ``inspect``, which it calls first if nobody did.

        Raises InputError at its end if the file has changed since: nothing may be sent before it is exhausted.
        """
        inspection = self.inspect()
        duplicates = iter(self._duplicates)
        repeating, first_row = next(duplicates, (0, 0))
        reading, number = self._source.read(), 0
        for number, _line, customer_id, problem in self._identified(reading):
            if problem is not None:
                yield Row(number, customer_id or "", Reason.INVALID_ID, None)
            elif number == repeating:
                yield Row(number, customer_id or "", Reason.DUPLICATE, first_row)
                repeating, first_row = next(duplicates, (0, 0))
            else:
                yield Row(number, customer_id or "", None, None)
        self._check_unchanged(reading, number, inspection.sha256, inspection.rows)

    def cells(self, *, sha256: str | None = None) -> Iterator[Sequence[str]]:
        """The cells under ``columns`` as they were, row for row with ``rows``; needs no ``inspect`` before it.

        A row with too few cells is filled up with empty ones; a broken row is shown in the ID column alone.
        Raises InputError at its end if the file is not the inspected one or has not the given SHA-256.
        """
        reading, count = self._source.read(), 0
        header = self._header
        kept, width = header.kept, len(header.names)
        as_they_are = len(kept) == width
        guarded = header.outcome_index is not None
        for _line, cells, problem in self._taken(reading):
            count += 1
            if problem is not None:
                shown = [""] * width
                shown[header.id_index] = cells[0]
                yield [shown[i] for i in kept]
            elif as_they_are:
                yield cells
            elif guarded:
                yield [unguard(cells[i]) for i in kept]
            else:
                yield [cells[i] for i in kept]
        if self._inspection is not None:
            self._check_unchanged(reading, count, self._inspection.sha256, self._inspection.rows)
        if sha256 is not None:
            self._check_unchanged(reading, count, sha256, count)

    def _parsed(self, reading: Reading) -> Iterator[ParsedRow]:
        """The rows after the header; raises InputError for a broken one unless these are to be skipped."""
        rows = iter(RowReader(reading.stream, self._header.delimiter, len(self._header.names)))
        if self._header.present:
            next(rows, None)
        for row in rows:
            if row[2] is not None and not self._skip_bad_rows:
                raise InputError(self._source.path, row[2], row[0])
            yield row

    def _taken(self, reading: Reading) -> Iterator[ParsedRow]:
        """The rows that count: of a report, those that are not deleted or absent."""
        outcome = self._header.outcome_index
        if outcome is None:
            return self._parsed(reading)
        return (
            row
            for row in self._parsed(reading)
            if row[2] is not None or row[1][outcome].strip().lower() not in _GONE_WORDS
        )

    def _identified(self, reading: Reading) -> Iterator[_Identified]:
        """``(number, line, ID, what is wrong with it)`` of every row; raises RefusedError when there are too many."""
        index, accepts, most = self._header.id_index, self._rule.accepts, self._max_rows
        guarded = self._header.outcome_index is not None
        for number, (line, cells, problem) in enumerate(self._taken(reading), 1):
            if number > most:
                raise RefusedError(
                    f"{self._source.path} has more than {most:,} rows: split it, or raise EXPUNGE_MAX_BATCH",
                    Guard.SIZE,
                )
            if problem is not None:
                yield number, line, None, problem
                continue
            customer_id = (unguard(cells[index]) if guarded else cells[index]).strip()
            yield number, line, customer_id, None if accepts(customer_id) else problem_of(customer_id)

    def _count(self) -> _Counts:
        reading, sieve = self._source.read(), Sieve()
        samples: list[tuple[int, str]] = []
        rows = invalid = bad_rows = 0
        for number, line, customer_id, problem in self._identified(reading):
            rows = number
            if customer_id is not None and problem is None:
                sieve.add(customer_id)
                continue
            invalid += 1
            bad_rows += customer_id is None
            if problem is not None and len(samples) < _SAMPLES:
                samples.append((line, problem))
        if not rows:
            raise InputError(self._source.path, self._why_no_rows())
        return _Counts(reading.sha256, rows, invalid, bad_rows, tuple(samples), sieve.repeated())

    def _why_no_rows(self) -> str:
        if next(self._parsed(self._source.read()), None) is None:
            return "has no rows: there is only a header"
        return "has nothing left to do: all its rows are deleted or absent"

    def _resolve(self, counts: _Counts) -> Duplicates:
        """Decide by the IDs themselves which candidates are duplicates: another pass, if there are any."""
        duplicates = Duplicates(counts.candidates)
        if not counts.candidates:
            return duplicates
        reading, number = self._source.read(), 0
        for number, _line, customer_id, problem in self._identified(reading):
            if customer_id is not None and problem is None:
                duplicates.see(number, customer_id)
        self._check_unchanged(reading, number, counts.sha256, counts.rows)
        duplicates.settle()
        return duplicates

    def _check_unchanged(self, reading: Reading, rows: int, sha256: str, expected_rows: int) -> None:
        if reading.sha256 != sha256 or rows != expected_rows:
            raise InputError(self._source.path, "has changed since it was checked: start again")
