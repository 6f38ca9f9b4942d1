"""Reports as xlsx and Parquet (SPEC 9): types, what does not fit, and what is said where the extra is missing."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape
from pyarrow import parquet

from tests.unit.test_reports import ROWS, left_in
from worker.domain.errors import FormatError, RoomError
from worker.domain.outcomes import Reason
from worker.domain.records import Result
from worker.reports import formats, xlsx_report
from worker.reports.columns import COLUMNS, ReportFormat, ReportRow
from worker.reports.formats import XLSX_ROWS, check_cells, check_format
from worker.reports.pages import ReportPages
from worker.reports.writing import stream_report, write_report

EXTRAS = (ReportFormat.XLSX, ReportFormat.PARQUET)
NASTY = (
    st.text(max_size=12)
    | st.text(st.characters(categories=["Cc", "Cn", "Zs", "Zl"]), max_size=4)
    | st.text("_x04A1F5\r\n\t\x01\ufffe ", max_size=16)
    | st.text(max_size=6).map(lambda text: f"<r>{text}</r>")
    | st.sampled_from(["=1+1", "007", "1e5", "http://x.test", "_x0041_x0042_", "<r><t>x</t></r>", "true", "'=1", " "])
)
CELLS = NASTY.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))


def made(report_format: ReportFormat, columns: Sequence[str], rows: Sequence[ReportRow]) -> io.BytesIO:
    out = io.BytesIO()
    stream_report(out, report_format, columns, rows)
    out.seek(0)
    return out


def sheet(columns: Sequence[str], rows: Sequence[ReportRow]) -> list[list[Any]]:
    """What another library than the one that wrote it reads; an empty cell is None."""
    book = openpyxl.load_workbook(made(ReportFormat.XLSX, columns, rows))
    try:
        found = [list(row) for row in book["Report"].iter_rows()]
        assert not [cell for row in found for cell in row if cell.hyperlink or cell.data_type in ("f", "d", "e")]
        return [[unescape(v) if isinstance(v := cell.value, str) else v for cell in row] for row in found]
    finally:
        book.close()


def table(columns: Sequence[str], rows: Sequence[ReportRow]) -> pa.Table:
    return parquet.read_table(made(ReportFormat.PARQUET, columns, rows))


def test_xlsx_has_types_and_no_guards() -> None:
    header, first, second, third, _, pending = sheet(("customer_id", "note"), ROWS)
    assert header == ["customer_id", "note", *COLUMNS]
    told = dict(zip(header, second, strict=True))
    assert (told["note"], told["expunge_missing_field"], told["expunge_http_status"]) == ("=1+1", "email;phone", 422)
    assert (told["expunge_retryable"], told["expunge_attempts"], told["expunge_row"]) == (False, 2, 2)
    assert first[header.index("expunge_finished_at")] == "2026-01-31T12:00:00Z"
    assert third[header.index("expunge_first_row")] == 1
    assert pending == ["c5", "'quoted", 5, "pending", *repeat(None, 9), "b_1"]


def test_parquet_has_a_fixed_schema_and_null_where_nothing_is() -> None:
    found = table(("customer_id", "note"), ROWS)
    assert [(field.name, str(field.type)) for field in found.schema] == [
        ("customer_id", "string"),
        ("note", "string"),
        ("expunge_row", "int64"),
        ("expunge_outcome", "string"),
        ("expunge_reason", "string"),
        ("expunge_missing_field", "list<element: string>"),
        ("expunge_retryable", "bool"),
        ("expunge_next_step", "string"),
        ("expunge_http_status", "int64"),
        ("expunge_attempts", "int64"),
        ("expunge_request_id", "string"),
        ("expunge_finished_at", "timestamp[ms, tz=UTC]"),
        ("expunge_first_row", "int64"),
        ("expunge_batch", "string"),
    ]
    assert table(("customer_id", "note"), ROWS[4:]).schema == found.schema, "it does not hang on what the rows have"
    rows = found.to_pylist()
    assert rows[0]["expunge_finished_at"] == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert (rows[1]["note"], rows[1]["expunge_missing_field"], rows[1]["expunge_retryable"]) == (
        *("=1+1", ["email", "phone"]),
        False,
    )
    assert (rows[3]["note"], rows[4]["expunge_attempts"], rows[4]["expunge_missing_field"]) == (None, None, [])


@settings(deadline=None)  # the first workbook imports two libraries
@example([("<r><t>x</t></r>", "_x0041_x0042_")], "\ud800")
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), NASTY)
def test_whatever_a_cell_holds_xlsx_and_parquet_give_it_back(cells: list[tuple[str, str]], request_id: str) -> None:
    result = Result(Reason.CONFIRMED, request_id=request_id or None, missing_field=(request_id,))
    rows = [ReportRow(number, each, result, "b_1") for number, each in enumerate(cells, 1)]
    columns = ("customer_id", cells[0][0] or "empty")
    header, *found = sheet(columns, rows)
    assert header[:2] == list(columns)
    assert [tuple(cell or "" for cell in row[:2]) for row in found] == cells
    asked = header.index("expunge_request_id")
    assert {row[asked] or "" for row in found} == {request_id}
    values = table(("a", "b"), rows).to_pylist()
    assert [(value["a"] or "", value["b"] or "") for value in values] == cells
    sayable = request_id.encode("utf-8", "backslashreplace").decode()
    assert {value["expunge_request_id"] or "" for value in values} == {sayable}


def test_an_id_stays_text_in_xlsx() -> None:
    ids = ["007", "1e5", "12345678901234567890", "=c1", "http://x.test/1"]
    _, *found = sheet(("customer_id",), [ReportRow(n, [each], None, "b_1") for n, each in enumerate(ids, 1)])
    assert [row[0] for row in found] == ids


def test_parquet_keeps_columns_of_one_name_apart_and_xlsx_has_them_as_they_were() -> None:
    rows, columns = [ReportRow(1, ["a", "b", "c"], None, "b")], ("x", "x", "expunge_row")
    assert table(columns, rows).column_names[:4] == ["x", "x_2", "expunge_row_2", "expunge_row"]
    assert sheet(columns, rows)[0][:4] == ["x", "x", "expunge_row", "expunge_row"]


@pytest.mark.parametrize("report_format", EXTRAS)
def test_the_same_rows_give_the_same_bytes_however_they_are_handed_in(report_format: ReportFormat) -> None:
    """Else a manifest that is made anew would not be that of the report."""
    rows = [ReportRow(number, [f"c{number}"], None, "b_1") for number in range(1, 10_001)]
    pages = ReportPages(report_format, ["customer_id"])
    parts = [pages.add(rows[start : start + 333]) for start in range(0, len(rows), 333)]
    whole = b"".join([*parts, *pages.end()])
    pages.close()
    assert whole == made(report_format, ["customer_id"], rows).getvalue()


def test_parquet_is_written_in_groups_of_rows() -> None:
    rows = (ReportRow(number, ["c"], None, "b_1") for number in range(70_000))
    out = io.BytesIO()
    stream_report(out, ReportFormat.PARQUET, ["customer_id"], rows)
    found = parquet.ParquetFile(out)
    assert [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)] == [32_768, 32_768, 4_464]


def test_more_rows_than_a_sheet_holds_are_refused() -> None:
    check_format(ReportFormat.XLSX, XLSX_ROWS)
    check_format(ReportFormat.PARQUET, XLSX_ROWS + 1)
    with pytest.raises(FormatError, match=r"1,048,576 rows, .* holds 1,048,575: take csv, .*--only"):
        check_format(ReportFormat.XLSX, XLSX_ROWS + 1)
    with pytest.raises(FormatError, match=r"16,385 columns"):
        check_format(ReportFormat.XLSX, 1, ["x"] * (16_385 - len(COLUMNS)))


def test_a_row_too_many_is_refused_while_writing_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch in work may get more rows of an outcome after they were counted."""
    monkeypatch.setattr(formats, "XLSX_ROWS", 4)
    monkeypatch.setattr(xlsx_report, "XLSX_ROWS", 4)
    path = tmp_path / "out.xlsx"
    path.write_text("before")
    with pytest.raises(FormatError, match="5 rows"):
        write_report(path, ReportFormat.XLSX, ("customer_id", "note"), ROWS)
    assert (path.read_text(), left_in(tmp_path)) == ("before", ["out.xlsx"])


@pytest.mark.parametrize(
    ("cell", "fits"), [("x" * 32_767, True), ("x" * 32_768, False), ("\U0001f600" * 16_384, False)]
)
def test_a_cell_that_excel_would_cut_off_is_refused(cell: str, fits: bool) -> None:
    rows = [ReportRow(1, ["c1", ""], None, "b"), ReportRow(2, ["c2", cell], None, "b")]
    if fits:
        assert sheet(("customer_id", "note"), rows)[2][1] == cell
        check_cells(ReportFormat.XLSX, ("customer_id", "note"), [row.cells for row in rows])
        return
    line = r"row 2, column 'note': 32,768 characters, .* holds 32,767: take csv, jsonl or parquet"
    with pytest.raises(FormatError, match=line):
        sheet(("customer_id", "note"), rows)
    with pytest.raises(FormatError, match=line):
        check_cells(ReportFormat.XLSX, ("customer_id", "note"), [row.cells for row in rows])
    assert table(("customer_id", "note"), rows).to_pylist()[1]["note"] == cell


def test_xlsx_leaves_no_temporary_file_and_says_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made(ReportFormat.XLSX, ("customer_id", "note"), ROWS)
    pages = ReportPages(ReportFormat.XLSX, ("customer_id", "note"))
    pages.add(ROWS)
    assert left_in(tmp_path)
    pages.close()
    pages.close()
    assert left_in(tmp_path) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(RoomError, match=r"a temporary file in .*gone cannot be written .*set TMPDIR"):
        ReportPages(ReportFormat.XLSX, ("customer_id", "note"))


def test_the_file_of_xlsx_is_a_sound_archive_without_times_of_its_own() -> None:
    with zipfile.ZipFile(made(ReportFormat.XLSX, ("customer_id", "note"), ROWS)) as archive:
        assert archive.testzip() is None
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_the_libraries_of_the_extras_are_imported_only_when_such_a_report_is_written() -> None:
    program = (
        "import sys, worker.cli.run, worker.cli.report, worker.web.app\n"
        "from worker.reports.formats import is_installed\n"
        "from worker.reports.columns import ReportFormat\n"
        "assert all(map(is_installed, ReportFormat))\n"
        "print([name for name in ('xlsxwriter', 'pyarrow', 'openpyxl') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("report_format", EXTRAS)
def test_a_format_that_is_not_installed_says_what_to_install(
    report_format: ReportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    name = report_format.value
    with pytest.raises(FormatError, match=rf"{name} is an extra .*: pip install 'expunge\[{name}\]', or take csv"):
        check_format(report_format)
    check_format(ReportFormat.CSV)
