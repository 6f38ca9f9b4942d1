"""``expunge verify``: a right report holds, and whatever is changed in it is found (SPEC 4, promise 1)."""

import codecs
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from worker.cli import app
from worker.domain.batches import Batch, BatchState, Description, Environment, Tally, Target
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Result
from worker.domain.spreadsheet import unguard
from worker.reports.columns import COLUMNS, ReportFormat, ReportRow
from worker.reports.manifest import write_manifest
from worker.reports.reading import READABLE
from worker.reports.writing import write_report

CELLS = [
    *(["c1", "x"], ["c2", "=1+1"], ["c1", 'a"b\r\nc'], ["c4", ""], ["c5", "'=quoted"], ["../x", "é"]),
    *([f"d{n}", str(n)] for n in range(7, 21)),
]
SPECIAL = {
    2: Result(Reason.MISSING_FIELD, 422, 2, "req_1", missing_field=("email",), finished_at=1.0),
    3: Result(Reason.DUPLICATE, first_row=1, finished_at=1.0),
    4: Result(Reason.DELETED_EARLIER, note="batch b_0", finished_at=1.0),
    6: Result(Reason.INVALID_ID, finished_at=1.0),
}
CONFIRMED = Result(Reason.CONFIRMED, 200, 1, "req_0", finished_at=1.0)
ROWS = [ReportRow(n, cells, SPECIAL.get(n, CONFIRMED), "b_1") for n, cells in enumerate(CELLS, 1)]


class Made:
    """A report, its manifest and its input in a folder, by the real writers."""

    def __init__(
        self,
        folder: Path,
        report_format: ReportFormat = ReportFormat.CSV,
        *,
        only: frozenset[Outcome] | None = None,
        delimiter: str = ",",
        rows: list[ReportRow] = ROWS,
        ended: bool = True,
    ) -> None:
        self.input = folder / "in.csv"
        with self.input.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["customer_id", "note"], *CELLS])
        self.path = folder / f"report.{report_format.value}"
        written = write_report(self.path, report_format, ("customer_id", "note"), rows, delimiter=delimiter, only=only)
        reasons = Counter(row.result.reason for row in ROWS if row.result)
        description = Description(
            source="in.csv",
            sha256=hashlib.sha256(self.input.read_bytes()).hexdigest(),
            rows=len(ROWS),
            shard_size=250,
            id_column="customer_id",
            columns=("customer_id", "note"),
            target=Target(Environment.SANDBOX, "m1", "up"),
        )
        batch = Batch(
            id="b_1",
            description=description,
            state=BatchState.COMPLETED if ended else BatchState.RUNNING,
            state_reason=None,
            tally=Tally(0, dict(reasons)),
            created_at=1.0,
            ended_at=2.0 if ended else None,
        )
        self.manifest = write_manifest(self.path, batch, written, version="1", written_at=3.0)

    def told(self, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
        """Forge the manifest."""
        content = json.loads(self.manifest.read_text())
        change(content)
        self.manifest.write_text(json.dumps(content))

    def forge(self, data: bytes) -> None:
        """Replace the report, and have the manifest name its SHA-256."""
        self.path.write_bytes(data)
        self.told(lambda content: content["report"].update(sha256=hashlib.sha256(data).hexdigest()))

    def rewrite(self, change: Callable[[list[list[str]]], object]) -> None:
        """Change the rows of a CSV report, without its header; the SHA-256 is forged too."""
        with self.path.open("r", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        change(rows)
        out = io.StringIO(newline="")
        csv.writer(out).writerows([header, *rows])
        self.forge(out.getvalue().encode())

    def texts(self) -> dict[str, str]:
        """What each check says."""
        ended = CliRunner().invoke(app, ["verify", str(self.path), "--input", str(self.input), "--json"])
        return {check["check"]: check["text"] for check in json.loads(ended.stdout)["checks"]}

    def verify(self, *, with_input: bool = True) -> tuple[int, dict[str, str]]:
        """The exit code, and the checks that do not hold."""
        more = ["--input", str(self.input)] if with_input else []
        ended = CliRunner().invoke(app, ["verify", str(self.path), *more, "--json"], standalone_mode=False)
        result = json.loads(ended.stdout)
        wrong = {check["check"]: check["text"] for check in result["checks"] if not check["ok"]}
        assert result["ok"] is not bool(wrong)
        return ended.exit_code or int(ended.return_value or 0), wrong


@pytest.mark.parametrize("only", [None, frozenset({Outcome.SKIPPED, Outcome.REJECTED}), frozenset({Outcome.FAILED})])
@pytest.mark.parametrize("report_format", [ReportFormat.CSV, ReportFormat.JSONL])
def test_a_report_as_it_was_written_holds(
    tmp_path: Path, report_format: ReportFormat, only: frozenset[Outcome] | None
) -> None:
    made = Made(tmp_path, report_format, only=only)
    assert made.verify() == (0, {})
    assert made.verify(with_input=False) == (0, {})


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_every_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    assert Made(tmp_path, delimiter=delimiter).verify() == (0, {})


def put(rows: list[list[str]], at: int, column: str, value: str) -> None:
    rows[at][2 + COLUMNS.index(column)] = value


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda rows: rows.pop(9),
            {
                "lines",
                "rows",
                "tally",
            },
        ),
        (lambda rows: rows.pop(), {"lines", "rows", "tally"}),
        (lambda rows: rows.insert(9, rows[9]), {"lines", "rows", "tally"}),
        (lambda rows: rows.insert(9, rows.pop(10)), {"rows"}),
        (
            lambda rows: rows.append([*rows[-1][:2], "21", *rows[-1][3:]]),
            {"lines", "rows", "tally", "cells", "duplicates"},
        ),
        (lambda rows: put(rows, 9, "expunge_row", "x"), {"rows"}),
        (lambda rows: put(rows, 9, "expunge_batch", "b_2"), {"batch"}),
        (lambda rows: put(rows, 9, "expunge_outcome", "absent"), {"outcomes", "tally"}),
        (lambda rows: put(rows, 9, "expunge_outcome", "gone"), {"outcomes", "tally"}),
        (lambda rows: put(rows, 9, "expunge_reason", "no_content"), {"tally"}),
        (lambda rows: put(rows, 9, "expunge_reason", "because"), {"outcomes", "tally"}),
        (lambda rows: put(rows, 9, "expunge_http_status", ""), {"outcomes"}),
        (lambda rows: put(rows, 9, "expunge_http_status", "500"), {"outcomes"}),
        (lambda rows: put(rows, 9, "expunge_retryable", "true"), {"outcomes"}),
        (lambda rows: put(rows, 9, "expunge_first_row", "1"), {"outcomes"}),
        (lambda rows: put(rows, 2, "expunge_first_row", "2"), {"duplicates"}),
        (lambda rows: put(rows, 2, "expunge_first_row", "3"), {"duplicates"}),
        (lambda rows: put(rows, 2, "expunge_first_row", ""), {"duplicates"}),
        (lambda rows: rows[9].__setitem__(0, "other"), {"cells"}),
        (lambda rows: rows[9].__setitem__(0, "d9"), {"cells", "duplicates"}),
        (lambda rows: rows[1].__setitem__(1, "=1+1"), set()),  # only the guard is gone: the cell is the same
        (lambda rows: rows[9].append("more"), {"form", "tally", "rows"}),
    ],
)
def test_what_was_changed_is_found_though_the_manifest_names_the_new_digest(
    tmp_path: Path, change: Callable[[list[list[str]]], object], found: set[str]
) -> None:
    made = Made(tmp_path)
    made.rewrite(change)
    code, wrong = made.verify()
    assert set(wrong) == found
    assert code == (3 if found else 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda content: content["tally"].update(deleted=1), {"manifest", "tally"}),
        (lambda content: content["tally"].update(pending=1), {"manifest", "tally"}),
        (lambda content: content["reasons"].update(confirmed=1), {"manifest", "tally"}),
        (lambda content: content["input"].update(sha256="0" * 64), {"input"}),
        (lambda content: content["report"].update(lines=1), {"lines"}),
        (lambda content: content["report"].update(only=["deleted"]), {"outcomes"}),
        (lambda content: content["report"].update(format="xlsx"), {"form"}),
        (lambda content: content["report"].update(format="parquet"), {"form"}),
        (lambda content: content["report"].update(sha256=content["report"]["sha256"].upper()), set()),
    ],
)
def test_a_manifest_that_says_something_else_is_found(
    tmp_path: Path, change: Callable[[dict[str, object]], None], found: set[str]
) -> None:
    made = Made(tmp_path)
    made.told(change)
    assert set(made.verify()[1]) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rows: rows.insert(1, rows[1]), {"lines", "rows", "tally"}),
        (lambda rows: rows.reverse(), {"rows"}),
        (lambda rows: put(rows, 0, "expunge_first_row", "9"), {"duplicates"}),
    ],
)
def test_in_a_filtered_report_too(tmp_path: Path, change: Callable[[list[list[str]]], object], found: set[str]) -> None:
    made = Made(tmp_path, only=frozenset({Outcome.SKIPPED}))
    made.rewrite(change)
    assert set(made.verify()[1]) == found


def test_an_outcome_that_there_is_not_is_named(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.rewrite(lambda rows: put(rows, 9, "expunge_outcome", "gone"))
    assert made.verify()[1]["outcomes"] == "row 10: has the outcome 'gone', which there is not"


def test_where_it_first_does_not_hold_is_said_and_how_many_more(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.rewrite(lambda rows: [row.__setitem__(1, "!") for row in rows[9:]])
    assert made.verify()[1] == {"cells": "row 10: is not what the input has in column 2, and 10 more"}


def test_rows_that_ended_while_the_report_was_written_are_no_fault(tmp_path: Path) -> None:
    made = Made(tmp_path, ended=False)
    made.told(lambda content: content["tally"].update(deleted=content["tally"]["deleted"] - 1, pending=1))
    made.told(lambda content: content["reasons"].update(confirmed=content["reasons"]["confirmed"] - 1))
    assert made.verify() == (0, {})
    made.told(lambda content: content.update(ended_at="2026-01-31T12:00:00Z"))
    assert set(made.verify()[1]) == {"tally"}


def test_a_row_of_the_input_that_the_batch_never_had_is_found(tmp_path: Path) -> None:
    made = Made(tmp_path)
    with made.input.open("a", encoding="utf-8") as file:
        file.write("one_more,x\n")
    assert made.verify()[1]["cells"] == "the input has 21 rows, but the manifest says 20"


def test_another_file_is_not_the_input(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.input.write_text("nome\nx y\n")
    assert set(made.verify()[1]) == {"cells", "input"}


@pytest.mark.parametrize("missing", ["path", "manifest", "input"])
def test_a_file_that_is_missing_is_bad_usage_and_named(tmp_path: Path, missing: str) -> None:
    made = Made(tmp_path)
    path: Path = getattr(made, missing)
    path.unlink()
    ended = CliRunner().invoke(app, ["verify", str(made.path), "--input", str(made.input)], standalone_mode=False)
    assert getattr(ended.exception, "exit_code", None) == 2
    assert str(path) in str(ended.exception)


def columns_left(made: Made, keep: Callable[[int, str], bool], *more: str) -> None:
    """Rewrite the report with some of its columns, and with more that say ``deleted`` of each row."""
    with made.path.open("r", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    places = [at for at, name in enumerate(header) if keep(at, name)]
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*(header[at] for at in places), *more])
    writer.writerows([*(row[at] for at in places), *("deleted" for _ in more)] for row in rows)
    made.forge(out.getvalue().encode())


@pytest.mark.parametrize("with_input", [True, False])
def test_a_report_without_the_customers_is_none(tmp_path: Path, with_input: bool) -> None:
    made = Made(tmp_path)
    columns_left(made, lambda at, _: at > 1)
    code, wrong = made.verify(with_input=with_input)
    assert (code, "has no column 'customer_id'" in wrong["form"]) == (3, True)
    made.told(lambda content: content["input"].update(id_column=None))
    assert set(made.verify(with_input=with_input)[1]) == ({"cells"} if with_input else set())


def test_what_was_not_looked_at_is_said(tmp_path: Path) -> None:
    made = Made(tmp_path)
    columns_left(made, lambda _, name: name != "note")
    assert "without 'note'" in made.texts()["cells"]
    made.told(lambda content: content["input"].update(id_column=None))
    assert "not looked at" in made.texts()["duplicates"]


@pytest.mark.parametrize("report_format", sorted(READABLE))
def test_a_report_that_was_only_saved_with_a_byte_order_mark_is_said_to_be_that(
    tmp_path: Path, report_format: ReportFormat
) -> None:
    made = Made(tmp_path, report_format)
    made.forge(codecs.BOM_UTF8 + made.path.read_bytes())
    wrong = made.verify()[1]
    assert set(wrong) == {"form"}
    assert "byte order mark" in wrong["form"]


def test_a_column_of_ours_that_is_there_twice_could_be_read_either_way(tmp_path: Path) -> None:
    made = Made(tmp_path)
    columns_left(made, lambda *_: True, "expunge_outcome")
    assert set(made.verify()[1]) >= {"form"}


def test_columns_that_a_later_release_may_add_are_left_alone_and_no_others(tmp_path: Path) -> None:
    made = Made(tmp_path)
    columns_left(made, lambda *_: True, "expunge_later")
    assert made.verify() == (0, {})
    columns_left(made, lambda _, name: name != "expunge_later", "customer_id")
    assert set(made.verify()[1]) >= {"form"}


@pytest.mark.parametrize("report_format", [ReportFormat.XLSX, ReportFormat.PARQUET])
def test_of_a_format_that_is_not_read_only_the_digest_counts_and_that_is_said(
    tmp_path: Path, report_format: ReportFormat
) -> None:
    made = Made(tmp_path, report_format)
    assert made.verify() == (0, {})
    assert "not looked at" in made.texts()["form"]
    made.path.write_bytes(made.path.read_bytes() + b"x")
    assert set(made.verify()[1]) == {"report"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"batch": 1}'])
def test_what_is_no_manifest_is_bad_usage(tmp_path: Path, content: str) -> None:
    made = Made(tmp_path)
    made.manifest.write_text(content)
    ended = CliRunner().invoke(app, ["verify", str(made.path)], standalone_mode=False)
    assert "is no manifest" in str(ended.exception)


def test_a_format_that_there_is_not_is_bad_usage(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.told(lambda content: content["report"].update(format="exe"))
    ended = CliRunner().invoke(app, ["verify", str(made.path)], standalone_mode=False)
    assert "is no manifest of a report (report.format: " in str(ended.exception)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), report_format=st.sampled_from(sorted(READABLE)))
def test_any_byte_that_changed_is_found(tmp_path: Path, at: float, by: int, report_format: ReportFormat) -> None:
    made = Made(tmp_path, report_format)
    data = bytearray(made.path.read_bytes())
    data[int(at * len(data))] ^= by
    made.path.write_bytes(data)
    code, wrong = made.verify()
    assert code == 3
    assert "report" in wrong
    made.forge(bytes(data))
    assert made.verify()[0] in (0, 3)  # never anything else, whatever the bytes are


TOLD = ("customer_id", "note", *(f"expunge_{name}" for name in ("row", "outcome", "reason", "first_row", "batch")))
"""Columns that the manifest or the input tells of; a change of the others is seen by the SHA-256 alone."""
WORDS = ("", "c1", "d9", "=1+1", "1", "2", "20", "deleted", "failed", "pending", "confirmed", "duplicate", "b_2")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(0, len(ROWS) - 1), name=st.sampled_from(TOLD), word=st.sampled_from(WORDS))
def test_another_word_in_a_cell_is_found_though_the_manifest_names_the_new_digest(
    tmp_path: Path, row: int, name: str, word: str
) -> None:
    made, column = Made(tmp_path), ("customer_id", "note", *COLUMNS).index(name)
    old: list[str] = []

    def change(rows: list[list[str]]) -> None:
        old.append(rows[row][column])
        rows[row][column] = word

    made.rewrite(change)
    withheld = (row, name, word) == (5, "customer_id", "")  # what was never stored: an ID that the pattern refuses
    assert made.verify()[0] == (0 if unguard(old[0]) == unguard(word) or withheld else 3)
