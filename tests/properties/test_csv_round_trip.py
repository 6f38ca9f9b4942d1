"""Whatever a table holds: CSV in, cells out, report out, report in again, and nothing is lost or changed on the way."""

import csv
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError
from worker.domain.outcomes import GONE, Outcome, Reason
from worker.domain.records import Result
from worker.domain.spreadsheet import guard, unguard
from worker.intake.csv_file import CsvFile
from worker.reports.columns import COLUMNS, ReportFormat, ReportRow
from worker.reports.writing import stream_report, write_report

RULE = IdRule.of()
DELIMITERS = (",", ";", "\t", "|")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FORMULAS = st.text("'=+-@\t\r\n\",;| a", max_size=6)
CELLS = TEXT | FORMULAS
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True) | st.sampled_from(["c1", "c2", " c1", "-c3"]) | CELLS
NAMES = CELLS.filter(lambda name: name.strip().casefold() != "customer_id" and not name.strip().startswith("expunge_"))


class Table(NamedTuple):
    columns: list[str]
    rows: list[list[str]]
    id_at: int


class Dialect(NamedTuple):
    delimiter: str
    end: str
    bom: str
    quote_all: bool
    gap: str


@st.composite
def tables(draw: st.DrawFn) -> Table:
    others = draw(st.lists(NAMES, max_size=3))
    index = draw(st.integers(0, len(others)))
    columns = [*others[:index], "customer_id", *others[index:]]
    row = st.tuples(*(IDS if i == index else CELLS for i in range(len(columns)))).map(list)
    return Table(columns, draw(st.lists(row, min_size=1, max_size=8)), index)


dialects = st.builds(
    Dialect,
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.sampled_from(["", "\ufeff"]),
    quote_all=st.booleans(),
    gap=st.sampled_from(["", "\n", "  \r\n"]),
)


def to_csv(table: Table, dialect: Dialect) -> bytes:
    """Written by hand: Python's writer leaves a lone CR unquoted when lines end with LF."""

    def quoted(cell: str) -> str:
        must = dialect.quote_all or not cell.strip() or any(character in '",;\t|\r\n' for character in cell)
        return '"' + cell.replace('"', '""') + '"' if must else cell

    lines = (dialect.delimiter.join(map(quoted, row)) + dialect.end for row in [table.columns, *table.rows])
    return (dialect.bom + dialect.gap.join(lines)).encode()


def latin_1(text: str) -> bytes:
    return text.encode("latin-1")


@contextmanager
def opened(content: bytes) -> Iterator[CsvFile]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.csv"
        path.write_bytes(content)
        with CsvFile.open(path, rule=RULE) as file:
            yield file


def cells_of(file: CsvFile) -> list[list[str]]:
    return [list(row) for row in file.cells()]


@given(CELLS)
def test_the_guard_is_lossless_and_leaves_no_formula(cell: str) -> None:
    assert unguard(guard(cell)) == cell
    assert guard(cell)[:1] not in tuple("=+-@\t\r")


@given(tables(), dialects)
def test_every_table_comes_back_as_it_was(table: Table, dialect: Dialect) -> None:
    with opened(to_csv(table, dialect)) as file:
        inspection = file.inspect()
        assert list(inspection.columns) == table.columns
        assert cells_of(file) == table.rows


@given(tables(), dialects)
def test_every_row_is_valid_invalid_or_a_duplicate_of_an_earlier_one(table: Table, dialect: Dialect) -> None:
    with opened(to_csv(table, dialect)) as file:
        inspection, rows = file.inspect(), list(file.rows())
    ids = [row[table.id_at].strip() for row in table.rows]
    assert [row.number for row in rows] == list(range(1, len(ids) + 1))
    assert [row.customer_id for row in rows] == ids
    for row in rows:
        first = ids.index(row.customer_id) + 1
        if not RULE.accepts(row.customer_id):
            assert (row.reason, row.first_row) == (Reason.INVALID_ID, None)
        elif first == row.number:
            assert (row.reason, row.first_row) == (None, None)
        else:
            assert (row.reason, row.first_row) == (Reason.DUPLICATE, first)
    reasons = [row.reason for row in rows]
    assert inspection.valid == reasons.count(None)
    assert inspection.invalid == reasons.count(Reason.INVALID_ID)
    assert inspection.duplicates == reasons.count(Reason.DUPLICATE)
    assert inspection.rows == len(rows)


results = st.none() | st.builds(
    Result,
    reason=st.sampled_from(list(Reason)),
    http_status=st.none() | st.integers(100, 599),
    attempts=st.integers(0, 9),
    request_id=st.none() | CELLS,
    missing_field=st.lists(CELLS, max_size=2).map(tuple),
    first_row=st.none() | st.integers(1, 9),
    finished_at=st.none() | st.floats(0, 4e9),
    note=st.none() | CELLS,
)


@given(tables(), st.sampled_from(DELIMITERS), st.data())
def test_a_report_holds_the_input_and_what_is_left_of_it_can_be_run_again(
    table: Table, delimiter: str, data: st.DataObject
) -> None:
    rows = [ReportRow(n, cells, data.draw(results), "b_1") for n, cells in enumerate(table.rows, 1)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "out.csv"
        write_report(path, ReportFormat.CSV, table.columns, rows, delimiter=delimiter)
        content = path.read_bytes()

    header, *lines = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter, strict=True)
    width = len(table.columns)
    assert [unguard(cell) for cell in header] == [*table.columns, *COLUMNS]
    assert [[unguard(cell) for cell in line[:width]] for line in lines] == table.rows
    assert [line[width + 1] for line in lines] == [row.outcome.value for row in rows]
    assert not any(cell[:1] in tuple("=+-@\t\r") for line in lines for cell in line)

    left = [row.cells for row in rows if row.outcome not in GONE]
    with opened(content) as file:
        if left:
            assert file.inspect().rows == len(left)
            assert list(file.columns) == table.columns
            assert cells_of(file) == left
        else:
            try:
                file.inspect()
            except InputError as error:
                assert "nothing left to do" in error.problem  # noqa: PT017
            else:
                raise AssertionError


@given(tables(), st.sampled_from(DELIMITERS), st.data())
def test_a_report_is_quoted_as_the_standard_library_would_have_it(
    table: Table, delimiter: str, data: st.DataObject
) -> None:
    rows = [ReportRow(n, cells, data.draw(results), data.draw(CELLS)) for n, cells in enumerate(table.rows, 1)]
    written = io.BytesIO()
    stream_report(written, ReportFormat.CSV, table.columns, rows, delimiter=delimiter)
    ours = written.getvalue().decode()
    read = csv.reader(io.StringIO(ours, newline=""), delimiter=delimiter, strict=True)
    theirs = io.StringIO(newline="")
    csv.writer(theirs, delimiter=delimiter, lineterminator="\r\n").writerows(read)
    assert ours == theirs.getvalue()


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=6), st.sets(st.sampled_from(list(Outcome))))
def test_a_filtered_report_has_the_rows_of_its_outcomes_and_no_others(
    outcomes: list[Outcome], only: set[Outcome]
) -> None:
    some = {reason.outcome: Result(reason) for reason in Reason}
    rows = [ReportRow(n, [f"c{n}"], some.get(outcome), "b") for n, outcome in enumerate(outcomes, 1)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "out.csv"
        written = write_report(path, ReportFormat.CSV, ["customer_id"], rows, only=frozenset(only))
        lines = path.read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == [outcome.value for outcome in outcomes if outcome in only]
    assert written.lines == len(lines)


LINES = st.text('c12,,"""\r\n\n\0é ', max_size=40).map(str.encode) | st.text('é",\nc', max_size=9).map(latin_1)


@given(st.lists(LINES | st.binary(max_size=20), max_size=5).map(b"\n".join), st.booleans())
def test_any_bytes_are_rows_or_one_error(content: bytes, skip_bad_rows: bool) -> None:
    """And if bad rows are skipped, none is lost and none of them is to be deleted."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.csv"
        path.write_bytes(b"customer_id,x\n" + content)
        try:
            with CsvFile.open(path, rule=RULE, skip_bad_rows=skip_bad_rows) as file:
                rows, cells = list(file.rows()), cells_of(file)
        except InputError as error:
            assert "no rows" in error.problem or error.line is not None  # noqa: PT017
            return
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert (row.reason is Reason.INVALID_ID) == (not RULE.accepts(row.customer_id))
        assert row.reason is Reason.INVALID_ID or cell[0].strip() == row.customer_id
        assert row.reason is not Reason.INVALID_ID or not RULE.accepts(cell[0].strip())
