"""Intake of CSV files (SPEC 8): what is taken, what is refused and how, and what a broken row costs."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError, RefusedError
from worker.domain.outcomes import Reason
from worker.intake import duplicates
from worker.intake.csv_file import CsvFile, Inspection, Row
from worker.intake.problems import problem_of

RULE = IdRule.of()
Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(content: str | bytes, name: str = "in.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def inspected(path: Path, **options: object) -> Inspection:
    with CsvFile.open(path, rule=RULE, **options) as file:  # type: ignore[arg-type]
        return file.inspect()


def read(path: Path, **options: object) -> list[Row]:
    with CsvFile.open(path, rule=RULE, **options) as file:  # type: ignore[arg-type]
        return list(file.rows())


def cells(path: Path, **options: object) -> list[list[str]]:
    with CsvFile.open(path, rule=RULE, **options) as file:  # type: ignore[arg-type]
        return [list(row) for row in file.cells()]


def ids(path: Path, **options: object) -> list[str]:
    return [row.customer_id for row in read(path, **options)]


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        inspected(path, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


# --- what is taken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_every_delimiter_line_end_and_byte_order_mark_reads_the_same(
    written: Written, delimiter: str, end: str, bom: str
) -> None:
    path = written(
        bom + "".join(delimiter.join(row) + end for row in (("name", "customer_id"), ("Jo", "c1"), ("", "c2")))
    )
    assert ids(path) == ["c1", "c2"]
    assert cells(path) == [["Jo", "c1"], ["", "c2"]]
    inspection = inspected(path)
    assert inspection.delimiter == delimiter
    assert inspection.columns == ("name", "customer_id")


def test_an_inspection_adds_up(written: Written) -> None:
    content = "id;customer_id\n1;c1\n2;bad id\n3;c1\n4;\n"
    assert inspected(written(content)) == Inspection(
        source="in.csv",
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        rows=4,
        valid=1,
        invalid=2,
        invalid_samples=((3, "contains a space"), (5, "empty")),
        duplicates=1,
        columns=("id", "customer_id"),
        id_column="customer_id",
        delimiter=";",
        bad_rows=0,
    )


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks(written: Written) -> None:
    path = written('customer_id,note\nc1,"a, ""b""\r\nc"\n"c2",\n')
    assert cells(path) == [["c1", 'a, "b"\r\nc'], ["c2", ""]]


def test_white_space_around_an_id_goes_and_leading_zeros_stay(written: Written) -> None:
    path = written("customer_id,n\n  007\t,1\n\u00a0c2 ,2\n")
    assert ids(path) == ["007", "c2"]
    assert cells(path)[0] == ["  007\t", "1"]


def test_empty_lines_do_not_count(written: Written) -> None:
    path = written("\n\ncustomer_id\n\nc1\n   \n\t\nc2\n\n")
    assert [(row.number, row.customer_id) for row in read(path)] == [(1, "c1"), (2, "c2")]


@pytest.mark.parametrize(("content", "row"), [("a,customer_id\n,\n", ["", ""]), ("a\tcustomer_id\n\t\n", ["", ""])])
def test_a_line_of_delimiters_is_a_row_with_an_empty_id(written: Written, content: str, row: list[str]) -> None:
    path = written(content)
    assert read(path) == [Row(1, "", Reason.INVALID_ID, None)]
    assert cells(path) == [row]


def test_a_quoted_empty_cell_is_a_row(written: Written) -> None:
    assert read(written('customer_id\n""\n')) == [Row(1, "", Reason.INVALID_ID, None)]


def test_a_row_with_too_few_fields_is_filled_up(written: Written) -> None:
    path = written("customer_id,a,b\nc1\nc2,x\n")
    assert cells(path) == [["c1", "", ""], ["c2", "x", ""]]


def test_a_row_without_its_id_cell_is_invalid(written: Written) -> None:
    path = written("a,customer_id\nx\n")
    assert read(path) == [Row(1, "", Reason.INVALID_ID, None)]


def test_a_last_line_without_an_end_counts(written: Written) -> None:
    assert ids(written("customer_id\nc1\nc2")) == ["c1", "c2"]


@pytest.mark.parametrize("name", ["Customer_ID", " customer_id ", '"customer_id"'])
def test_the_id_column_is_found_whatever_its_case_and_margins(written: Written, name: str) -> None:
    assert ids(written(f"{name},x\nc1,\n")) == ["c1"]


def test_an_exact_name_beats_one_in_another_case(written: Written) -> None:
    path = written("CUSTOMER_ID,customer_id\nno,c1\n")
    assert ids(path) == ["c1"]


def test_another_column_can_be_named(written: Written) -> None:
    path = written("customer_id,Kunde\nno,c1\n")
    assert ids(path, column="kunde") == ["c1"]
    assert inspected(path, column="kunde").id_column == "Kunde"


def test_the_delimiter_is_the_one_that_yields_the_wanted_column(written: Written) -> None:
    assert ids(written("customer_id|a,b,c\nc1|1,2,3\n")) == ["c1"]
    assert ids(written('"a;b;c",customer_id\n1,c1\n')) == ["c1"]


# --- duplicates and invalid IDs ------------------------------------------------------------------------------------


def test_later_rows_point_to_the_first_row_of_their_id(written: Written) -> None:
    path = written("customer_id\nc1\nc2\n c1 \nC1\nc1\nc2\n")
    assert read(path) == [
        Row(1, "c1", None, None),
        Row(2, "c2", None, None),
        Row(3, "c1", Reason.DUPLICATE, 1),
        Row(4, "C1", None, None),
        Row(5, "c1", Reason.DUPLICATE, 1),
        Row(6, "c2", Reason.DUPLICATE, 2),
    ]


def test_invalid_ids_are_never_duplicates(written: Written) -> None:
    path = written("customer_id,x\na b,\na b,\n,\n,\n")
    assert [row.reason for row in read(path)] == [Reason.INVALID_ID] * 4
    assert inspected(path).duplicates == 0


def test_ids_with_the_same_hash_are_no_duplicates(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "hash", lambda _: 7, raising=False)
    path = written("customer_id\nc1\nc2\nc1\nc3\n")
    assert [row.first_row for row in read(path)] == [None, None, 1, None]
    assert inspected(path).duplicates == 1


@pytest.mark.parametrize(
    ("customer_id", "problem"),
    [
        ("", "empty"),
        ("x" * 312, "too long (312 characters)"),
        ("secret/name", "contains '/'"),
        ("secret name", "contains a space"),
        ("secret@example.com", "contains '@'"),
        ("secrét", "contains a letter other than A-Z and a-z"),
        ("secret\x07", "contains a control character or symbol"),
        ("..", "not as EXPUNGE_ID_PATTERN demands"),
    ],
)
def test_an_invalid_id_is_explained_without_saying_it(customer_id: str, problem: str) -> None:
    assert not RULE.accepts(customer_id)
    assert problem_of(customer_id) == problem


def test_invalid_rows_are_kept_and_sampled_by_line(written: Written) -> None:
    path = written("customer_id\n" + "x y\n" * 25 + "z" * 129 + "\n")
    inspection = inspected(path)
    assert inspection.invalid == 26
    assert inspection.invalid_samples == tuple((line, "contains a space") for line in range(2, 22))
    assert read(path)[-1] == Row(26, "z" * 129, Reason.INVALID_ID, None)


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["customer_1", "c1", "00042", '"c1"', " 7f3a ", "id7f3a2c9d"])
def test_one_column_of_ids_needs_no_header(written: Written, first: str) -> None:
    path = written(f"{first}\nc2\n")
    assert ids(path) == [first.strip(' "'), "c2"]
    assert inspected(path).columns == ("customer_id",)


@pytest.mark.parametrize(
    "name", ["id", "customer", "customerId", "customer-id", "Column1", "ID1", "customer_id_2", "_c0", "uuid", "Kunde"]
)
def test_a_header_is_never_taken_for_a_customer(written: Written, name: str) -> None:
    message = refusal(written(f"{name}\nc1\n"))
    assert f"line 1: its first line '{name}' looks like a header" in message
    assert "--column" in message
    assert ids(written(f"{name}\nc1\n"), column=name) == ["c1"]


@pytest.mark.parametrize("first", ["jo.doe1@example.com", "jo@example.com", "Jo Doe 42"])
def test_a_first_line_that_is_neither_header_nor_id_is_refused_and_not_shown(written: Written, first: str) -> None:
    message = refusal(written(f"{first}\nc1\n"))
    assert "neither a header nor an acceptable customer ID" in message
    assert first not in message


def test_a_missing_column_names_those_that_exist(written: Written) -> None:
    assert refusal(written("name,mail\nJo,x\n")).endswith(
        "line 1: has no column 'customer_id', but 'name', 'mail': name one with --column"
    )


def test_data_in_place_of_a_header_is_not_shown(written: Written) -> None:
    message = refusal(written("c1,Jo,jo@example.com\nc2,Al,al@example.com\n"))
    assert "looks like data" in message
    assert "Jo" not in message


def test_a_column_named_twice_is_refused(written: Written) -> None:
    assert "has 2 columns named 'customer_id'" in refusal(written("customer_id,customer_id\nc1,c2\n"))


def test_two_columns_that_differ_from_the_wanted_one_by_case_are_refused(written: Written) -> None:
    assert "has no column 'customer_id', but 'Customer_id', 'CUSTOMER_ID'" in refusal(
        written("Customer_id,CUSTOMER_ID\nc1,c2\n")
    )


# --- files that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(written: Written, content: str) -> None:
    assert "is empty" in refusal(written(content))


def test_a_file_with_only_a_header_is_refused(written: Written) -> None:
    assert "has no rows" in refusal(written("customer_id,x\n\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_utf_16_and_32_are_refused_as_a_whole(written: Written, encoding: str, skip_bad_rows: bool) -> None:
    path = written("customer_id\nc1\n".encode(encoding))
    assert "in.csv: is UTF-16 or UTF-32" in refusal(path, skip_bad_rows=skip_bad_rows)


def test_a_workbook_and_gzip_by_another_name_are_recognized(written: Written) -> None:
    assert "is a workbook" in refusal(written(b"PK\x03\x04..."))
    assert "is packed with gzip" in refusal(written(gzip.compress(b"customer_id\nc1\n")))


@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"%PDF-1.7\n", b"\xd0\xcf\x11\xe0"]
)
@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_an_image_is_not_said_to_be_a_text_that_can_be_mended(
    written: Written, head: bytes, skip_bad_rows: bool
) -> None:
    problem = refusal(written(head + bytes(range(256)) * 8), skip_bad_rows=skip_bad_rows)
    assert "is an image, a PDF or an old workbook: choose a CSV file" in problem
    assert "line" not in problem


def test_a_file_that_was_packed_twice_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"customer_id\nc1\n")))
    assert "is packed with gzip twice: unpack it once" in refusal(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.csv")


def test_a_directory_says_so(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_file_without_permission_says_so(written: Written) -> None:
    path = written("customer_id\nc1\n")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        assert "may not be read" in refusal(path)
    finally:
        os.seteuid(user)


def test_permission_and_other_errors_become_one_line(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("customer_id\nc1\n")

    def refuse(error: OSError) -> str:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(Path, "open", fail)
        return refusal(path)

    assert "may not be read by this user" in refuse(PermissionError(13, "Permission denied"))
    assert "cannot be opened (Too many levels" in refuse(OSError(40, "Too many levels of symbolic links"))


def test_more_rows_than_allowed_is_a_refusal_with_counts(written: Written) -> None:
    path = written("customer_id\nc1\nc2\nc3\n")
    assert inspected(path, max_rows=3).rows == 3
    with pytest.raises(RefusedError, match=r"has more than 2 rows: .*EXPUNGE_MAX_BATCH"):
        inspected(path, max_rows=2)


# --- broken rows ---------------------------------------------------------------------------------------------------

BROKEN = {
    "latin-1": ("c2,José\n".encode("latin-1"), "is not UTF-8"),
    "NUL": (b"c2,a\0b\n", "has a NUL character"),
    "text after a closing quote": (b'c2,"a"b\n', "has text after a closing quote"),
    "too many fields": (b"c2,a,b\n", "has 3 fields, but the header has 2"),
    "too many fields, quoted": (b'c2,"a",b\n', "has 3 fields, but the header has 2"),
    "over 64 KiB": (b"c2," + b"x" * 70_000 + b"\n", "is over 64 KiB"),
    "far over 64 KiB": (b"c2," + b"x" * 300_000 + b"\n", "is over 64 KiB"),
    "lone carriage return": (b"c2,a\rb\n", "has a carriage return outside quotes"),
}


@pytest.mark.parametrize(("row", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_an_error_with_its_line(written: Written, row: bytes, problem: str) -> None:
    path = written(b'customer_id,x\nc1,"two\nlines"\n\n' + row + b"c3,\n")
    assert f", line 5: {problem}" in refusal(path)


@pytest.mark.parametrize(("row", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_can_be_skipped_and_still_counts(written: Written, row: bytes, problem: str) -> None:
    path = written(b'customer_id,x\nc1,"two\nlines"\n\n' + row + b"c3,\n,\n")
    assert read(path, skip_bad_rows=True) == [
        Row(1, "c1", None, None),
        Row(2, "", Reason.INVALID_ID, None),
        Row(3, "c3", None, None),
        Row(4, "", Reason.INVALID_ID, None),
    ]
    inspection = inspected(path, skip_bad_rows=True)
    assert (inspection.rows, inspection.invalid, inspection.bad_rows) == (4, 2, 1)
    (line, text), last = inspection.invalid_samples
    assert (line, last) == (5, (7, "empty"))
    assert text.startswith(problem)


@pytest.mark.parametrize(("row", "problem"), BROKEN.values(), ids=BROKEN)
def test_what_is_shown_of_a_broken_row_is_no_acceptable_id(written: Written, row: bytes, problem: str) -> None:
    """So that a report of it, fed back, deletes nobody by a cell that stood in the wrong column."""
    assert problem
    shown, *others = cells(written(b"customer_id,x\n" + row), skip_bad_rows=True)[0]
    assert shown.startswith("c2,")
    assert not IdRule.of(r"(?s).*").accepts(shown)
    assert others == [""]


@pytest.mark.parametrize(
    "content", ["customer_id\tx\nc2\t\t\n", "customer_id\n\rc2\n", 'customer_id,x\nc1,"open\nc2\nc3,\n']
)
def test_a_broken_row_that_would_be_an_id_but_for_its_margins_is_shown_otherwise(
    written: Written, content: str
) -> None:
    shown = [row[0] for row in cells(written(content), skip_bad_rows=True) if "c2" in row[0]]
    assert len(shown) == 1
    assert not RULE.accepts(shown[0].strip())


def test_an_unclosed_quote_is_reported_where_its_row_starts(written: Written) -> None:
    path = written('customer_id,x\nc1,"two\nlines"\nc2,"open\nc3,\nc4,\n')
    assert ", line 4: has a quote that is never closed" in refusal(path)


def test_an_unclosed_quote_in_a_large_file_is_found_within_64_kib(written: Written) -> None:
    path = written('customer_id,x\nc1,"open\n' + "c2,x\n" * 100_000)
    assert ", line 2: is over 64 KiB: is a quote left open in this row?" in refusal(path)


def test_after_an_unclosed_quote_reading_goes_on_at_the_next_line(written: Written) -> None:
    path = written('customer_id,x\nc1,\nc2,"open\nc3,\nc4,x\n')
    assert [(row.customer_id, row.reason) for row in read(path, skip_bad_rows=True)] == [
        ("c1", None),
        ("", Reason.INVALID_ID),
        ("c3", None),
        ("c4", None),
    ]
    assert cells(path, skip_bad_rows=True)[1] == ['c2,"open', ""]


def test_text_inside_a_broken_quote_is_not_taken_for_a_customer(written: Written) -> None:
    path = written('customer_id,x\nc1,"dear\nsir\nregards" Jo\nc2,\n')
    assert [(row.customer_id, row.reason) for row in read(path, skip_bad_rows=True)] == [
        ("", Reason.INVALID_ID),
        ("", Reason.INVALID_ID),
        ("", Reason.INVALID_ID),
        ("c2", None),
    ]
    assert not any(RULE.accepts(row[0]) for row in cells(path, skip_bad_rows=True)[:3])


def test_lines_are_counted_right_after_broken_rows(written: Written) -> None:
    path = written('customer_id,x\nc1,"open\nc3,\n' + "x" * 200_000 + "\nc4,\na b,\n" + 'c5,"\n')
    samples = dict(inspected(path, skip_bad_rows=True).invalid_samples)
    assert list(samples) == [2, 4, 6, 7]
    assert samples[6] == "contains a space"


def test_a_header_that_is_broken_is_refused_even_if_bad_rows_are_skipped(written: Written) -> None:
    assert "line 1: has a quote that is never closed" in refusal(written('customer_id,"x\nc1,\n'), skip_bad_rows=True)
    assert "line 1: is not UTF-8" in refusal(written("customer_id,é\n".encode("latin-1")), skip_bad_rows=True)


def test_a_row_of_just_64_kib_is_taken(written: Written) -> None:
    exact = "c1," + "x" * (65_536 - 4) + "\n"
    assert ids(written("customer_id,x\n" + exact)) == ["c1"]
    assert "is over 64 KiB" in refusal(written("customer_id,x\nx" + exact))


# --- gzip, standard input and what is not seekable -----------------------------------------------------------------


def test_gzip_is_taken_by_name_and_digested_as_given(written: Written) -> None:
    packed = gzip.compress(b"customer_id\nc1\n") + gzip.compress(b"c2\n")
    path = written(packed, "in.CSV.GZ")
    assert ids(path) == ["c1", "c2"]
    assert inspected(path).sha256 == hashlib.sha256(packed).hexdigest()


def test_gzip_that_unpacks_to_too_much_is_refused(written: Written) -> None:
    path = written(gzip.compress(b"customer_id\n" + b"c1\n" * 500_000), "in.csv.gz")
    assert "is over 1,000,000 bytes when unpacked" in refusal(path, max_unpacked=1_000_000)


@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_gzip_cut_short_or_damaged_is_one_line(written: Written, skip_bad_rows: bool) -> None:
    packed = gzip.compress(b"customer_id\n" + "".join(f"c{i * 7919}\n" for i in range(99_999)).encode())
    options = {"skip_bad_rows": skip_bad_rows}
    assert "is cut short" in refusal(written(packed[:-2000], "in.csv.gz"), **options)
    assert "is damaged" in refusal(written(packed[:-8] + b"\0" * 8, "in.csv.gz"), **options)
    assert "is damaged or not a gzip file" in refusal(written("customer_id\nc1\n", "in.csv.gz"), **options)
    assert "is empty" in refusal(written(b"", "in.csv.gz"), **options)


def test_gzip_damaged_in_the_middle_is_noticed_however_its_rows_look(written: Written) -> None:
    packed = gzip.compress(b"customer_id\n" + "".join(f"c{i * 7919}\n" for i in range(99_999)).encode())
    path = written(packed[:9000] + b"\xff" * 50 + packed[9050:], "in.csv.gz")
    assert refusal(path)
    assert "is damaged" in refusal(path, skip_bad_rows=True)


def test_standard_input_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"customer_id\nc1\nc2\nc1\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with CsvFile.open("-", rule=RULE) as file:
        assert file.inspect().source == "standard input"
        assert file.inspect().sha256 == hashlib.sha256(content).hexdigest()
        assert [row.first_row for row in file.rows()] == [None, None, 1]
        mode = os.fstat(file._source.file.fileno()).st_mode
        assert mode & 0o777 == 0o600
        copied = file._source.file
    assert copied.closed


def test_endless_standard_input_is_not_copied_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            self.given += size
            assert self.given < 4_000_000
            return b"c" * size

    class Stdin:
        buffer = Endless()

    monkeypatch.setattr(sys, "stdin", Stdin())
    with pytest.raises(InputError, match=r"standard input: is over 1,000,000 bytes"):
        CsvFile.open("-", rule=RULE, max_unpacked=1_000_000)


def test_a_pipe_is_copied_first_and_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)

    def feed() -> None:
        threading.Thread(target=path.write_bytes, args=(b"customer_id\nc1\nc1\n",)).start()

    feed()
    assert [row.first_row for row in read(path)] == [None, 1]
    feed()
    assert "is over 5 bytes" in refusal(path, max_unpacked=5)


# --- a file that changes, memory -----------------------------------------------------------------------------------


def test_a_file_changed_since_inspection_is_noticed(written: Written) -> None:
    path = written("customer_id\nc1\nc2\n")
    with CsvFile.open(path, rule=RULE) as file:
        file.inspect()
        written("customer_id\nc1\nc3\n")
        with pytest.raises(InputError, match="has changed"):
            list(file.rows())
        with pytest.raises(InputError, match="has changed"):
            list(file.cells())
        written("customer_id\nc1\nc2\n")
        assert len(list(file.rows())) == 2


def test_cells_are_of_the_file_that_was_submitted(written: Written) -> None:
    path = written("customer_id\nc1\n")
    sha256 = inspected(path).sha256
    with CsvFile.open(path, rule=RULE) as file:
        assert list(file.cells(sha256=sha256)) == [["c1"]]
        with pytest.raises(InputError, match="has changed"):
            list(file.cells(sha256="0" * 64))


def test_passes_may_run_side_by_side(written: Written) -> None:
    path = written("customer_id,x\n" + "".join(f"c{i},{i}\n" for i in range(50_000)))
    with CsvFile.open(path, rule=RULE) as file:
        assert all(row.customer_id == cell[0] for row, cell in zip(file.rows(), file.cells(), strict=True))


MEASURE = r"""
import re, sys
from pathlib import Path
from worker.domain.customer_ids import IdRule
from worker.intake.csv_file import CsvFile
with CsvFile.open(sys.argv[1], rule=IdRule.of()) as file:
    assert file.inspect().rows == 300_000
    assert sum(1 for _ in file.rows()) == sum(1 for _ in file.cells()) == 300_000
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize(("repeated", "mebibytes"), [(1, 40), (2, 75)])
def test_memory_does_not_hold_the_file(written: Written, repeated: int, mebibytes: int) -> None:
    """A set of its IDs would take 45 MB beside the interpreter's 20; pairs of duplicates are the worst case."""
    path = written("customer_id\n" + "".join(f"customer_{i // repeated:032x}\n" for i in range(300_000)))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) // 1024 < mebibytes


# --- a report as input ---------------------------------------------------------------------------------------------

REPORT = (
    "customer_id,'=note,expunge_row,expunge_outcome,expunge_reason\r\n"
    "c1,x,1,deleted,confirmed\r\n"
    "'-c2,'=1+1,2,failed,server_error\r\n"
    "c3,''=x,3,absent,not_found\r\n"
    "c4,'plain,4,pending,\r\n"
    "a b,,5,skipped,invalid_id\r\n"
)


def test_of_a_report_only_rows_not_gone_are_taken_without_its_columns(written: Written) -> None:
    path = written(REPORT)
    assert read(path) == [
        Row(1, "-c2", None, None),
        Row(2, "c4", None, None),
        Row(3, "a b", Reason.INVALID_ID, None),
    ]
    assert cells(path) == [["-c2", "=1+1"], ["c4", "'plain"], ["a b", ""]]
    inspection = inspected(path)
    assert inspection.columns == ("customer_id", "=note")
    assert (inspection.rows, inspection.valid) == (3, 2)


def test_a_report_with_nothing_left_is_refused(written: Written) -> None:
    path = written("customer_id,expunge_outcome\nc1,deleted\nc2,absent\n")
    assert "has nothing left to do" in refusal(path)
    assert "has no rows" in refusal(written("customer_id,expunge_outcome\n"))


def test_the_cap_counts_only_rows_that_are_taken(written: Written) -> None:
    assert inspected(written(REPORT), max_rows=3).rows == 3


def test_other_expunge_columns_are_dropped_too(written: Written) -> None:
    path = written("expunge_row,customer_id,x\n1,c1,'=1\n")
    assert cells(path) == [["c1", "'=1"]]
