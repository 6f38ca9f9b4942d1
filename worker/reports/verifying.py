"""Whether a report holds what its manifest says, and each row of the input (SPEC 4, promise 1)."""

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, BinaryIO

from worker.domain.outcomes import REASON_BY_TEXT, Outcome, Reason
from worker.reports.columns import ReportFormat, unique_names
from worker.reports.manifest import Manifest
from worker.reports.reading import Line, read_report, whole

_BEGINNINGS = {ReportFormat.XLSX: b"PK", ReportFormat.PARQUET: b"PAR1"}
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)


class Check:
    """One thing that was looked at: holds until something is told to be wrong."""

    def __init__(self, name: str, text: str) -> None:
        """``text`` says what holds if nothing is wrong."""
        self.name = name
        self._text = text
        self._first: str | None = None
        self._count = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return self._first is None

    @property
    def text(self) -> str:
        """What holds, or the first thing that does not and how many more there are."""
        more = f", and {self._count - 1:,} more" if self._count > 1 else ""
        return self._text if self._first is None else self._first + more

    def wrong(self, text: str) -> None:
        """Something does not hold."""
        self._first = self._first or text
        self._count += 1

    def as_json(self) -> dict[str, Any]:
        """The keys of docs/json.md."""
        return {
            "check": self.name,
            "ok": self.ok,
            "wrong": self._count,
            "text": self.text.encode("utf-8", "replace").decode(),
        }


def check_digest(name: str, found: str, expected: str) -> Check:
    """Whether a file has the SHA-256 that the manifest names."""
    check = Check(name, f"its SHA-256 is {expected}")
    if found != expected.lower():
        check.wrong(f"its SHA-256 is {found}, but the manifest says {expected}")
    return check


def check_form(report_format: ReportFormat, first: bytes) -> Check:
    """Whether a file that is not read row by row begins like one of its format."""
    check = Check("form", f"it begins like {report_format.value}; its rows are not looked at, only its SHA-256")
    if not first.startswith(_BEGINNINGS[report_format]):
        check.wrong(f"it is no file of the format {report_format.value}")
    return check


def check_manifest(manifest: Manifest) -> Check:
    """Whether its own numbers add up."""
    check, rows = Check("manifest", f"its tally adds up to {manifest.input.rows:,} rows"), manifest.input.rows
    if (total := sum(manifest.tally.values())) != rows:
        check.wrong(f"its tally adds up to {total:,}, but the input has {rows:,} rows")
    for outcome in manifest.tally.keys() - _OUTCOMES:
        check.wrong(f"its tally has an outcome that there is not: {outcome!r}")
    for word in manifest.reasons.keys() - set(REASON_BY_TEXT):
        check.wrong(f"it has a reason that there is not: {word!r}")
    by_outcome = Counter[str]()
    for word, count in manifest.reasons.items():
        if word in REASON_BY_TEXT:
            by_outcome[REASON_BY_TEXT[word].outcome.value] += count
    for outcome in Outcome:
        told = manifest.tally.get(outcome.value, 0)
        if outcome is not Outcome.PENDING and by_outcome[outcome.value] != told:
            check.wrong(f"its reasons for {outcome.value} add up to {by_outcome[outcome.value]:,}, not to {told:,}")
    return check


class Rows:
    """The checks of a report's rows, each of which is seen once, in order; about 16 bytes a row are kept."""

    def __init__(self, manifest: Manifest, file: BinaryIO) -> None:
        """``file`` is the report at its first byte."""
        self._manifest = manifest
        self._only = None if manifest.report.only is None else frozenset(manifest.report.only)
        self._form = Check("form", "every row can be read")
        self._lines = Check("lines", f"it has {manifest.report.lines:,} rows, as the manifest says")
        self._numbers = Check("rows", self._numbered())
        self._batch = Check("batch", f"every row is of batch {manifest.batch}")
        self._words = Check("outcomes", "every outcome and reason is one that there is, and they fit")
        self._tally = Check("tally", "outcomes and reasons are as many as the manifest says")
        self._report = read_report(file, manifest.report.format, self._form.wrong)
        self._own = Standing()
        self._id_index = self._find_ids()
        self._duplicates = Check("duplicates", self._single())
        self._count, self._last = 0, 0
        self._counted = Counter[tuple[str, str]]()

    @property
    def columns(self) -> tuple[str, ...]:
        """The input's columns that the report has."""
        return self._report.columns or ()

    @property
    def checks(self) -> list[Check]:
        """All of them, complete when ``seen`` is exhausted."""
        return [self._form, self._lines, self._numbers, self._batch, self._words, self._duplicates, self._tally]

    def seen(self) -> Iterator[Line]:
        """Give each row that can be read on after it was checked."""
        for line in self._report.lines:
            self._count += 1
            if line is None:
                continue
            self._see(line)
            yield line
        self._end()

    def _see(self, line: Line) -> None:
        at = f"row {line.number}" if line.number else f"row {self._count:,} of the report"
        self._check_number(line, at)
        if line.batch != self._manifest.batch:
            self._batch.wrong(f"{at}: is of another batch")
        reason = REASON_BY_TEXT.get(line.reason)
        if (problem := misfit(line, reason, self._only)) is not None:
            self._words.wrong(f"{at}: {problem}")
        self._counted[line.outcome[:40], line.reason[:40]] += 1
        self._check_first_row(line, reason, at)

    def _check_number(self, line: Line, at: str) -> None:
        number, last, most = line.number, self._last, self._manifest.input.rows
        if number is None:
            self._numbers.wrong(f"{at}: has no number")
            return
        if number <= last:
            self._numbers.wrong(f"{at}: comes after row {last}")
        elif number > most:
            self._numbers.wrong(f"{at}: the input has only {most:,} rows")
        elif self._only is None and number != last + 1:
            self._numbers.wrong(f"{_span(last + 1, number - 1)} missing")
        self._last = max(last, number)

    def _check_first_row(self, line: Line, reason: Reason | None, at: str) -> None:
        customer = None if self._id_index is None else line.cells[self._id_index].strip()
        if reason is not Reason.DUPLICATE:
            if line.number is not None and reason is not Reason.INVALID_ID:
                self._own.note(line.number, customer)
            return
        first = whole(line.first_row)
        if first is None or line.number is None or first >= line.number:
            self._duplicates.wrong(f"{at}: is a duplicate, but names no earlier row")
            return
        stands = self._own.stands(first, customer)
        if stands is False or (stands is None and self._only is None):
            self._duplicates.wrong(f"{at}: row {first}, of which it is a duplicate, is not of the same customer")

    def _end(self) -> None:
        if self._id_index is not None and (twice := self._own.twice()) is not None:
            first, again = twice
            self._duplicates.wrong(
                f"row {again}: is of the same customer as row {first}, but not named as its duplicate"
            )
        told = self._manifest.report.lines
        if self._count != told:
            self._lines.wrong(f"it has {_rows(self._count)}, but the manifest says {told:,}")
        if self._only is None and self._last < self._manifest.input.rows:
            self._numbers.wrong(f"{_span(self._last + 1, self._manifest.input.rows)} missing")
        outcomes, reasons = Counter[str](), Counter[str]()
        for (outcome, reason), count in self._counted.items():
            outcomes[outcome] += count
            reasons[reason] += count
        for name in Outcome:
            if self._only is None or name in self._only:
                self._compare(name.value, outcomes[name.value], self._manifest.tally.get(name.value, 0))
        for each in Reason:
            if self._only is None or each.outcome in self._only:
                self._compare(each.text, reasons[each.text], self._manifest.reasons.get(each.text, 0))

    def _compare(self, word: str, found: int, told: int) -> None:
        """Of a batch that still ran, rows may have ended after the manifest's tally was taken."""
        running = self._manifest.ended_at is None
        if found != told and not (running and (found < told if word == Outcome.PENDING else found > told)):
            self._tally.wrong(f"{word}: {_rows(found)}, but the manifest says {told:,}")

    def _numbered(self) -> str:
        if self._only is not None:
            return "the numbers of the rows rise"
        return f"every row from 1 to {self._manifest.input.rows:,} is there, once and in order"

    def _single(self) -> str:
        if self._id_index is None:
            return "every duplicate names an earlier row; of which customers they are is not looked at"
        return "no customer has two rows, except as duplicates, which name the first"

    def _find_ids(self) -> int | None:
        name = self._manifest.input.id_column
        if name is None or self._report.columns is None:
            return None
        if name in self.columns:
            return self.columns.index(name)
        self._form.wrong(f"has no column {name!r}, which held the customer IDs")
        return None


class Standing:
    """Which row stands for which customer, as a hash of the ID: 16 bytes a row."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._hashes = array("q")

    def note(self, number: int, customer_id: str | None) -> None:
        """Take a row that is no duplicate; one whose number does not rise is left out."""
        if not self._numbers or number > self._numbers[-1]:
            self._numbers.append(number)
            self._hashes.append(hash(customer_id))

    def stands(self, number: int, customer_id: str | None) -> bool | None:
        """Whether that row is this customer's; None if there was no such row."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            return None
        return self._hashes[at] == hash(customer_id)

    def twice(self) -> tuple[int, int] | None:
        """The numbers of two rows of one customer; None if there are none."""
        ordered = array("q", sorted(self._hashes))
        if (found := next((a for a, b in pairwise(ordered) if a == b), None)) is None:
            return None
        first = self._hashes.index(found)
        return self._numbers[first], self._numbers[self._hashes.index(found, first + 1)]


def misfit(line: Line, reason: Reason | None, only: frozenset[str] | None) -> str | None:
    """What is wrong with the outcome and the reason of a row."""
    if line.outcome not in _OUTCOMES:
        return f"has the outcome {line.outcome[:40]!r}, which there is not"
    if only is not None and line.outcome not in only:
        return f"is {line.outcome}, which the report was to leave out"
    if line.outcome == Outcome.PENDING:
        return f"is pending, but has the reason {line.reason[:40]!r}" if line.reason else None
    if reason is None:
        return f"has the reason {line.reason[:40]!r}, which there is not"
    if reason.outcome != line.outcome:
        return f"is {line.outcome}, but {reason.text} is a reason of {reason.outcome.value}"
    if line.first_row and reason is not Reason.DUPLICATE:
        return "names a first row, but is no duplicate"
    if reason.outcome is Outcome.DELETED and not re.fullmatch("2[0-9][0-9]", line.http_status):
        return "is deleted, but has no status of a reply that confirms it"
    if line.retryable != ("true" if reason.retryable else "false"):
        return f"is {reason.text}, but its expunge_retryable is another"
    return None


def check_cells(
    manifest: Manifest,
    shown: Sequence[str],
    lines: Iterable[Line],
    columns: Sequence[str],
    cells: Iterator[Sequence[str]],
) -> Check:
    """Whether each row of the report has the cells of the input's row of that number; reads both to their ends.

    ``shown`` are the report's columns of the input, ``lines`` its rows; ``columns`` and ``cells`` are the input's.
    """
    kept = [at for at, name in enumerate(columns) if name in shown]
    left = ", ".join(repr(name[:40]) for name in columns if name not in shown)
    check = Check("cells", f"every row has the cells of the input's row{f'; it is without {left}' if left else ''}")
    names = tuple(columns[at] for at in kept)
    if shown not in (names, tuple(unique_names(names))):
        check.wrong("the report has columns that the input has not")
    elif not names and manifest.report.lines:
        check.wrong("the report has no column of the input")
    ids = names.index(manifest.input.id_column) if manifest.input.id_column in names else None
    at, row = 0, None
    for line in lines:
        if line.number is None or line.number <= at:
            continue  # the check of the numbers tells
        while at < line.number and (row := next(cells, None)) is not None:
            at += 1
        if row is None:
            check.wrong(f"row {line.number}: the input has no such row")
        elif len(line.cells) == len(kept) and (other := _differs([row[i] for i in kept], line, ids)) is not None:
            check.wrong(f"row {line.number}: is not what the input has in column {other + 1}")
    total = at + sum(1 for _ in cells)
    if total != manifest.input.rows:
        check.wrong(f"the input has {total:,} rows, but the manifest says {manifest.input.rows:,}")
    return check


def _differs(row: Sequence[str], line: Line, ids: int | None) -> int | None:
    """The first cell that is another; an ID's white space is no difference, nor is a broken row that was not stored."""
    for at, (given, found) in enumerate(zip(row, line.cells, strict=True)):
        if given == found:
            continue
        if at == ids and (given.strip() == found.strip() or (not found and line.reason == Reason.INVALID_ID.text)):
            continue
        return at
    return None


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _span(first: int, last: int) -> str:
    return f"row {first:,} is" if first == last else f"rows {first:,} to {last:,} are"
