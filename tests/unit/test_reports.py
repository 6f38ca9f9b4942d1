"""Reports (SPEC 9): what stands in their columns, that they are whole or not there, and their manifest."""

import csv
import hashlib
import io
import json
import os
import re
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import orjson
import pytest

from worker.domain.batches import Batch, BatchState, Description, Environment, StateReason, Tally, Target
from worker.domain.errors import UsageError
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Result
from worker.domain.spreadsheet import guard, unguard
from worker.reports.columns import COLUMNS, ReportFormat, ReportRow, rfc3339
from worker.reports.manifest import manifest, write_manifest
from worker.reports.pages import Written
from worker.reports.writing import stream_report, write_report

AT = 1_769_860_800.9  # 2026-01-31T12:00:00.9Z
FULL = Result(
    reason=Reason.MISSING_FIELD,
    http_status=422,
    attempts=2,
    request_id="req_1",
    missing_field=("email", "phone"),
    finished_at=AT,
)
ROWS = [
    ReportRow(1, ["c1", "x"], Result(Reason.CONFIRMED, 200, 1, "req_0", finished_at=AT), "b_1"),
    ReportRow(2, ["c2", "=1+1"], FULL, "b_1"),
    ReportRow(3, ["c1", 'a"b\r\nc'], Result(Reason.DUPLICATE, first_row=1, finished_at=AT), "b_1"),
    ReportRow(4, ["c4", ""], Result(Reason.DELETED_EARLIER, note="batch b_0", finished_at=AT), "b_1"),
    ReportRow(5, ["c5", "'quoted"], None, "b_1"),
]
TEXTS = (ReportFormat.CSV, ReportFormat.JSONL)


def as_csv(rows: list[ReportRow], columns: tuple[str, ...] = ("customer_id", "note"), delimiter: str = ",") -> str:
    out = io.BytesIO()
    stream_report(out, ReportFormat.CSV, columns, rows, delimiter=delimiter)
    return out.getvalue().decode()


def strings(row: ReportRow) -> list[str]:
    """The values under ``COLUMNS`` as a reader of the CSV gets them."""
    *_, cells = csv.reader(io.StringIO(as_csv([row], tuple("x" * len(row.cells))), newline=""), strict=True)
    return cells[-len(COLUMNS) :]


def as_jsonl(rows: list[ReportRow], columns: tuple[str, ...] = ("customer_id", "note")) -> list[dict[str, object]]:
    out = io.BytesIO()
    stream_report(out, ReportFormat.JSONL, columns, rows)
    return [json.loads(line) for line in out.getvalue().decode().splitlines()]


# --- columns -------------------------------------------------------------------------------------------------------


def test_the_columns_are_those_of_the_specification_in_its_order() -> None:
    named = (
        "`expunge_row`, `expunge_outcome`, `expunge_reason`, `expunge_missing_field` (joined by `;`), "
        "`expunge_retryable`, `expunge_next_step`, `expunge_http_status`, `expunge_attempts`, `expunge_request_id`, "
        "`expunge_finished_at` (RFC 3339, UTC), `expunge_first_row` (of a duplicate), `expunge_batch`."
    )
    assert re.findall(r"expunge_\w+", named) == list(COLUMNS)


def test_a_result_in_every_column() -> None:
    next_step = Reason.MISSING_FIELD.next_step
    assert strings(ROWS[1]) == [
        *("2", "rejected", "missing_field", "email;phone", "false", next_step, "422", "2", "req_1"),
        *("2026-01-31T12:00:00Z", "", "b_1"),
    ]


def test_a_duplicate_names_its_first_row_and_a_note_joins_the_next_step() -> None:
    assert strings(ROWS[2])[10] == "1"
    assert strings(ROWS[3])[5] == "Nothing: an earlier batch deleted this customer. (batch b_0)"


def test_a_pending_record_has_an_outcome_and_nothing_else() -> None:
    assert strings(ROWS[4]) == ["5", "pending", "", "", "", "", "", "", "", "", "", "b_1"]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_words(reason: Reason) -> None:
    values = strings(ReportRow(1, [], Result(reason), "b"))
    assert values[1:6] == [
        *(reason.outcome.value, reason.text, ""),
        *("true" if reason.retryable else "false", reason.next_step),
    ]
    assert guard(reason.text) == reason.text
    assert guard(reason.next_step) == reason.next_step


def test_times_are_utc_with_whole_seconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(AT) == "2026-01-31T12:00:00Z"


# --- the spreadsheet guard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx", "=", "'=1", "'''@"])
def test_a_cell_that_would_run_is_guarded_and_comes_back(cell: str) -> None:
    assert guard(cell) == "'" + cell
    assert unguard(guard(cell)) == cell


@pytest.mark.parametrize("cell", ["", "x", "'", "''", "'x", "1-1", " =1", "\n=1"])
def test_any_other_cell_stays_as_it_is(cell: str) -> None:
    assert guard(cell) == cell
    assert unguard(cell) == cell


def test_what_the_upstream_said_is_guarded_too() -> None:
    row = ReportRow(1, [], Result(Reason.CONFIRMED, request_id="=cmd()", missing_field=("@a", "b")), "-b")
    assert [strings(row)[i] for i in (3, 8, 11)] == ["'@a;b", "'=cmd()", "'-b"]


# --- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_is_rfc_4180_with_minimal_quotes_and_guards() -> None:
    text = as_csv(ROWS[:3], ("customer_id", "=note"))
    header, first, second, third = text.removesuffix("\r\n").split("\r\n", 3)
    assert header == "customer_id,'=note," + ",".join(COLUMNS)
    assert first.startswith("c1,x,1,deleted,confirmed,,false,Nothing")
    assert second.startswith("c2,'=1+1,2,rejected,")
    assert third.startswith('c1,"a""b\r\nc",3,skipped,duplicate')


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_reads_back_with_every_delimiter(delimiter: str) -> None:
    rows = list(csv.reader(io.StringIO(as_csv(ROWS, delimiter=delimiter), newline=""), delimiter=delimiter))
    assert [[unguard(cell) for cell in row[:2]] for row in rows[1:]] == [row.cells for row in ROWS]
    assert {len(row) for row in rows} == {14}


# --- JSON Lines ----------------------------------------------------------------------------------------------------


def test_jsonl_has_types_and_no_guards() -> None:
    first, second, *_, pending = as_jsonl(ROWS)
    assert list(second) == ["customer_id", "note", *COLUMNS]
    assert second["note"] == "=1+1"
    assert second["expunge_row"] == 2
    assert second["expunge_missing_field"] == ["email", "phone"]
    assert second["expunge_retryable"] is False
    assert second["expunge_http_status"] == 422
    assert second["expunge_first_row"] is None
    assert first["expunge_finished_at"] == "2026-01-31T12:00:00Z"
    assert (pending["expunge_outcome"], pending["expunge_reason"], pending["expunge_retryable"]) == (
        "pending",
        None,
        None,
    )


def test_jsonl_keeps_columns_of_one_name_apart() -> None:
    row = ReportRow(1, ["a", "b", "c", "d", "e"], None, "b")
    (value,) = as_jsonl([row], ("x", "x", "x_2", "x", "expunge_row"))
    assert list(value)[:5] == ["x", "x_3", "x_2", "x_4", "expunge_row_2"]
    assert list(value.values())[:6] == ["a", "b", "c", "d", "e", 1]


def test_half_a_surrogate_pair_does_not_cost_the_report(tmp_path: Path) -> None:
    row = ReportRow(1, ["c1"], Result(Reason.CONFIRMED, request_id="r\ud800"), "b")
    assert as_jsonl([row], ("customer_id",))[0]["expunge_request_id"] == "r\ud800"
    for report_format in ReportFormat:
        write_report(tmp_path / "out", report_format, ("customer_id",), [row])
        if report_format in TEXTS:
            assert "\\ud800" in (tmp_path / "out").read_text()


# --- files ---------------------------------------------------------------------------------------------------------


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("report_format", ReportFormat)
def test_a_written_report_knows_its_digest_and_its_rows(tmp_path: Path, report_format: ReportFormat) -> None:
    path = tmp_path / "out"
    written = write_report(path, report_format, ("customer_id", "note"), ROWS)
    assert written == Written(path, hashlib.sha256(path.read_bytes()).hexdigest(), 5, report_format, None)
    assert left_in(tmp_path) == ["out"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_the_outcomes_asked_for_are_written(tmp_path: Path) -> None:
    only = frozenset({Outcome.REJECTED, Outcome.PENDING})
    written = write_report(tmp_path / "out", ReportFormat.JSONL, ("customer_id", "note"), ROWS, only=only)
    values = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [value["expunge_row"] for value in values] == [2, 5]
    assert (written.lines, written.only) == (2, only)


def test_a_report_that_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("before")

    def failing() -> Iterator[ReportRow]:
        for number in range(20_000):
            yield ReportRow(number, ["c1", ""], None, "b")
        raise ConnectionError("the store is gone")

    with pytest.raises(ConnectionError, match="the store is gone"):
        write_report(path, ReportFormat.CSV, ("customer_id", "note"), failing())
    assert path.read_text() == "before"
    assert left_in(tmp_path) == ["out.csv"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for place, problem in (
        (tmp_path / "none" / "out.csv", r"cannot be written \(No such file or directory\): name another"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(UsageError, match=problem):
            write_report(place, ReportFormat.CSV, ("customer_id", "note"), ROWS)
    assert left_in(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_report(tmp_path / "out.csv", ReportFormat.CSV, ("customer_id", "note"), ROWS)
    assert left_in(tmp_path) == []


def test_a_stream_gets_the_same_bytes_and_stays_open(tmp_path: Path) -> None:
    class Halting(io.BytesIO):
        """Takes at most seven bytes at a time, as a pipe may."""

        def write(self, data: object, /) -> int:
            return super().write(bytes(data)[:7])  # type: ignore[call-overload]

    stream = Halting()
    written = stream_report(stream, ReportFormat.CSV, ("customer_id", "note"), ROWS, delimiter=";")
    file = write_report(tmp_path / "out", ReportFormat.CSV, ("customer_id", "note"), ROWS, delimiter=";")
    assert stream.getvalue() == (tmp_path / "out").read_bytes()
    assert (written.path, written.sha256, written.lines) == (None, file.sha256, file.lines)


@pytest.mark.parametrize("report_format", ReportFormat)
def test_memory_stays_flat_however_many_rows(tmp_path: Path, report_format: ReportFormat) -> None:
    many = 12_000 if report_format is ReportFormat.XLSX else 50_000  # a workbook takes long
    rows = (ReportRow(number, [f"customer_{number:032x}"], FULL, "b_1") for number in range(many))
    write_report(tmp_path / "first", report_format, ("customer_id",), islice(rows, 1))  # what the library takes once
    tracemalloc.start()
    try:
        write_report(tmp_path / "out", report_format, ("customer_id",), rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if report_format in TEXTS:  # the others are packed
        assert (tmp_path / "out").stat().st_size > 8_000_000
    assert peak < 3_000_000


# --- the manifest --------------------------------------------------------------------------------------------------

BATCH = Batch(
    id="b_1",
    description=Description(
        target=Target(Environment.SANDBOX, "m_1"),
        source="in.csv",
        sha256="a" * 64,
        rows=5,
        shard_size=250,
        id_column="customer_id",
        columns=("customer_id", "note"),
        reference="ticket-7",
        submitted_by="anna",
    ),
    state=BatchState.PAUSED,
    state_reason=StateReason.OPERATOR,
    tally=Tally(1, {Reason.MISSING_FIELD: 1, Reason.CONFIRMED: 1, Reason.DUPLICATE: 1, Reason.DELETED_EARLIER: 1}),
    created_at=AT,
    approved_by="ben",
    approved_at=AT + 30,
)


def test_the_manifest_says_what_the_report_is_of(tmp_path: Path) -> None:
    report = write_report(tmp_path / "out.csv", ReportFormat.CSV, ("customer_id", "note"), ROWS)
    path = write_manifest(tmp_path / "out.csv", BATCH, report, version="0.1.0", written_at=AT + 60)
    assert path == tmp_path / "out.csv.manifest.json"
    assert orjson.loads(path.read_bytes()) == {
        "batch": "b_1",
        "state": "paused",
        "state_reason": "operator",
        "environment": "sandbox",
        "merchant": "m_1",
        "reference": "ticket-7",
        "submitted_by": "anna",
        "approved_by": "ben",
        "approved_at": "2026-01-31T12:00:30Z",
        "input": {"name": "in.csv", "sha256": "a" * 64, "rows": 5, "id_column": "customer_id"},
        "report": {"name": "out.csv", "sha256": report.sha256, "lines": 5, "format": "csv", "only": None},
        "tally": {
            "deleted": 1,
            "absent": 1,
            "rejected": 1,
            "failed": 0,
            "unknown": 0,
            "skipped": 1,
            "pending": 1,
        },
        "reasons": {"confirmed": 1, "deleted_earlier": 1, "missing_field": 1, "duplicate": 1},
        "created_at": "2026-01-31T12:00:00Z",
        "ended_at": None,
        "written_at": "2026-01-31T12:01:00Z",
        "version": "0.1.0",
    }


def test_the_manifest_names_the_filter() -> None:
    report = Written(None, "b" * 64, 1, ReportFormat.JSONL, frozenset({Outcome.UNKNOWN, Outcome.FAILED}))
    value = manifest(BATCH, report, version="0.1.0", written_at=AT)["report"]
    assert (value["name"], value["format"], value["only"]) == (None, "jsonl", ["failed", "unknown"])
