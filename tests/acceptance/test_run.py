"""``expunge run``, from a CSV to its reconciliation CSV, with real workers and a real upstream."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from pyarrow import parquet

from tests.acceptance.accounting import read_report
from tests.acceptance.conftest import TIMEOUT, Expunge
from worker.domain.outcomes import Outcome
from worker.reports.columns import COLUMNS
from worker.simulator import Rule, Scenario, SimulatorThread

MakeIds = Callable[[int], list[str]]

MIXED = Scenario(
    rules=[
        Rule(fault="absent", ids="absent_*"),
        Rule(fault="rejected", ids="rejected_*"),
        Rule(fault="rejected", ids="missing_*", missing_field=["tax_id", "dob"], shape="example"),
        Rule(fault="server_error", ids="failing_*"),
        Rule(fault="still_active", ids="active_*"),
        Rule(fault="accepted", ids="accepted_*"),
        Rule(fault="unreadable", ids="garbled_*", times=1, executed=True),
        Rule(fault="reset_after", ids="reset_*", times=1),
        Rule(fault="server_error", ids="flaky_*", times=1),
        Rule(fault="deleted_with_missing_field", ids="incomplete_*", missing_field=["tax_id"]),
    ]
)
EXPECTED = {
    "absent_1": ("absent", "not_found"),
    "rejected_1": ("rejected", "bad_request"),
    "missing_1": ("rejected", "missing_field"),
    "failing_1": ("failed", "server_error"),
    "active_1": ("unknown", "still_active"),
    "accepted_1": ("unknown", "accepted_not_confirmed"),
    "garbled_1": ("absent", "after_unanswered_attempt"),
    "reset_1": ("absent", "after_unanswered_attempt"),
    "flaky_1": ("deleted", "confirmed"),
    "incomplete_1": ("deleted", "confirmed"),
    "../x": ("skipped", "invalid_id"),
}


def test_every_row_is_in_the_report_once_in_order_and_as_the_upstream_saw_it(
    expunge: Expunge, make_ids: MakeIds
) -> None:
    """SPEC 4, promises 1 and 3."""
    ordinary = make_ids(600)
    ids = [*ordinary[:300], *EXPECTED, ordinary[0], *ordinary[300:]]
    with SimulatorThread(MIXED) as upstream:
        ended = expunge("run", expunge.csv(ids), "--json", EXPUNGE_UPSTREAM_URL=upstream.url)
        executed = {entry.id for entry in upstream.log if entry.executed}
        asked = Counter(entry.id for entry in upstream.log)
    assert ended.returncode == 3, ended.stderr

    result, report = json.loads(ended.stdout), read_report(expunge.folder / "customers.report.csv")
    assert [row["customer_id"] for row in report] == ids
    assert [int(row["expunge_row"]) for row in report] == list(range(1, len(ids) + 1))
    by_id = {row["customer_id"]: row for row in reversed(report)}
    assert {i: (by_id[i]["expunge_outcome"], by_id[i]["expunge_reason"]) for i in EXPECTED} == EXPECTED
    assert by_id["missing_1"]["expunge_missing_field"] == "tax_id;dob"
    assert by_id["incomplete_1"]["expunge_missing_field"] == "tax_id"
    assert by_id["failing_1"]["expunge_attempts"] == "5" == str(asked["failing_1"])

    duplicate = report[300 + len(EXPECTED)]
    assert (duplicate["expunge_reason"], duplicate["expunge_first_row"]) == ("duplicate", "1")

    deleted = {row["customer_id"] for row in report if row["expunge_outcome"] == "deleted"}
    assert deleted <= executed
    assert set(asked) <= set(ids) - {"../x"}
    assert all(asked[customer_id] == 1 for customer_id in ordinary)

    counted = Counter(row["expunge_outcome"] for row in report)
    assert result["tally"] == {outcome.value: counted[outcome.value] for outcome in Outcome}
    assert sum(result["tally"].values()) == len(ids)

    manifest = json.loads((expunge.folder / "customers.report.csv.manifest.json").read_text())
    content = (expunge.folder / "customers.report.csv").read_bytes()
    assert manifest["report"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["input"]["sha256"] == hashlib.sha256((expunge.folder / "customers.csv").read_bytes()).hexdigest()


def test_a_report_fed_to_run_again_takes_only_what_is_not_gone(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = [*make_ids(30), "failing_1", "failing_2"]
    with SimulatorThread(MIXED) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        expunge.environment["EXPUNGE_MAX_ATTEMPTS"] = "2"
        assert expunge("run", expunge.csv(ids)).returncode == 3
        upstream.use(Scenario())
        before = len(upstream.log)
        ended = expunge("run", "customers.report.csv", "--out", "second.csv")
        assert ended.returncode == 0, ended.stderr
        assert sorted(entry.id for entry in upstream.log[before:]) == ["failing_1", "failing_2"]
    second = read_report(expunge.folder / "second.csv")
    assert list(second[0]) == ["customer_id", *COLUMNS]
    assert [row["expunge_outcome"] for row in second] == ["deleted", "deleted"]


def test_the_same_file_is_done_once_unless_asked_again(expunge: Expunge, make_ids: MakeIds) -> None:
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        name = expunge.csv(make_ids(20))
        first = expunge("run", name, "--json")
        assert first.returncode == 0, first.stderr
        second = expunge("run", name)
        assert second.returncode == 4
        assert json.loads(first.stdout)["batch"] in second.stderr
        again = expunge("run", name, "--again", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["reasons"] == {"deleted_earlier": 20}
        assert len(upstream.log) == 20


def test_status_batches_and_report_tell_the_same_after_the_run(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = [*make_ids(20), "missing_1"]
    with SimulatorThread(MIXED) as upstream:
        run = json.loads(expunge("run", expunge.csv(ids), "--json", EXPUNGE_UPSTREAM_URL=upstream.url).stdout)
    status = json.loads(expunge("status", run["batch"], "--json").stdout)
    listed = json.loads(expunge("batches", "--json").stdout)["batches"]
    assert status["tally"] == run["tally"] == listed[0]["tally"]
    only = expunge("report", run["batch"], "--only", "rejected", "--format", "jsonl")
    (line,) = map(json.loads, only.stdout.splitlines())
    assert (line["customer_id"], line["expunge_missing_field"]) == ("missing_1", ["tax_id", "dob"])


def test_a_report_without_the_file_has_the_columns_that_were_kept(expunge: Expunge, tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text("case,customer_id,name\nA1,c1,Ada\nA2,c2,Bob\n")
    refused = expunge("run", str(file), "--simulate", "--keep", "nome")
    assert refused.returncode == 2
    assert "has no column 'nome' to keep" in refused.stderr
    run = json.loads(expunge("run", str(file), "--simulate", "--scenario", "clean", "--keep", "case", "--json").stdout)
    report = expunge("report", run["batch"], "--simulate").stdout.splitlines()
    assert [line.split(",")[:4] for line in report] == [
        ["case", "customer_id", "expunge_row", "expunge_outcome"],
        ["A1", "c1", "1", "deleted"],
        ["A2", "c2", "2", "deleted"],
    ]


def test_modules_of_the_users_folder_are_not_taken_for_ours(expunge: Expunge, make_ids: MakeIds) -> None:
    for name in ("tasks.py", "worker.py", "celery.py", "redis.py"):
        (expunge.folder / name).write_text("raise SystemExit('not ours')\n")
    ended = expunge("run", expunge.csv(make_ids(3)), "--simulate", "--scenario", "clean", "--json")
    assert ended.returncode == 0, ended.stderr


def test_a_rehearsal_can_be_repeated_and_leaves_the_real_store_alone(expunge: Expunge, make_ids: MakeIds) -> None:
    name = expunge.csv(make_ids(10))
    for _ in range(2):
        ended = expunge("run", name, "--simulate", "--scenario", "clean", "--json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["reasons"] == {"confirmed": 10}
    assert expunge("batches").returncode == 2
    assert not (expunge.folder / ".expunge" / "redis").exists()


def test_refused_credentials_pause_the_batch_and_the_same_run_goes_on(expunge: Expunge, make_ids: MakeIds) -> None:
    refusing = Scenario(rules=[Rule(fault="unauthorized")])
    with SimulatorThread(refusing) as upstream:
        expunge.environment["EXPUNGE_UPSTREAM_URL"] = upstream.url
        name = expunge.csv(make_ids(300))
        paused = expunge("run", name, "--json")
        assert paused.returncode == 4, paused.stderr
        assert json.loads(paused.stdout)["state_reason"] == "credentials_refused"
        assert json.loads(paused.stdout)["tally"]["pending"] == 300
        upstream.use(Scenario())
        ended = expunge("run", name, "--json")
        assert ended.returncode == 0, ended.stderr
    assert {row["expunge_attempts"] for row in read_report(expunge.folder / "customers.report.csv")} == {"1"}


def test_a_rehearsal_s_report_is_verified_without_settings_and_a_lost_row_is_found(
    expunge: Expunge, make_ids: MakeIds
) -> None:
    """SPEC 4, promise 1: we account for every row, and can show it."""
    ids = make_ids(300)
    source = expunge.csv([*ids, ids[0], "../x"])
    assert expunge("run", source, "--simulate").returncode == 3
    bare = Expunge(expunge.folder)
    before = sorted(path.name for path in expunge.folder.iterdir())
    verified = bare("verify", "customers.report.csv", "--input", source)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout == ""
    assert sorted(path.name for path in expunge.folder.iterdir()) == before

    report = expunge.folder / "customers.report.csv"
    lines = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(b"".join([*lines[:5], *lines[6:]]))
    verified = bare("verify", "customers.report.csv", "--input", source)
    assert verified.returncode == 3
    assert "wrong  rows        row 5 is missing" in verified.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_leaves_nothing_in_the_folder_for_temporary_files(
    site: Expunge, tmp_path: Path, make_ids: MakeIds, end: signal.Signals
) -> None:
    """However it ends: one that is killed cannot clean up."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    worker = site.start("worker", TMPDIR=str(folder))
    try:
        batch = site("submit", site.csv(make_ids(10))).stdout.strip()
        assert site("watch", batch).returncode == 0
    finally:
        os.killpg(worker.pid, end)
        worker.communicate(timeout=60)
    assert list(folder.iterdir()) == []


def test_reports_of_kept_columns_of_packed_files_and_of_reports_are_verified(
    expunge: Expunge, make_ids: MakeIds
) -> None:
    """Written again, an ended batch's report is the same to the byte, as docs/report.md says."""
    bare = Expunge(expunge.folder)
    packed = expunge.folder / "in.csv.gz"
    rows = ["customer_id,note,case", *(f"{name},=1,{at}" for at, name in enumerate(make_ids(40)))]
    packed.write_bytes(gzip.compress("\n".join(rows).encode()))
    run = json.loads(expunge("run", "in.csv.gz", "--simulate", "--keep", "case", "--out", "1.csv", "--json").stdout)
    batch_id, report = run["batch"], expunge.folder / "1.csv"
    assert bare("verify", "1.csv", "--input", "in.csv.gz").returncode == 0

    written = {"again.csv": ("--join", "in.csv.gz"), "kept.csv": (), "kept.jsonl": ("--format", "jsonl")}
    for name, more in written.items():
        told = expunge("report", batch_id, "--simulate", "--out", name, *more)
        assert told.returncode == 0, told.stderr
        assert bare("verify", name, "--input", "in.csv.gz").returncode == 0
    assert (expunge.folder / "again.csv").read_bytes() == report.read_bytes()
    assert (expunge.folder / "kept.csv").read_text().startswith("customer_id,case,expunge_row,")

    expunge("run", "1.csv", "--simulate", "--out", "2.csv")
    verified = bare("verify", "2.csv", "--input", "1.csv")
    assert verified.returncode == 0, verified.stderr


def test_a_report_is_a_workbook_or_a_parquet_file_if_asked_for(expunge: Expunge, make_ids: MakeIds) -> None:
    ids = ["007", *make_ids(20), "missing_1"]
    with SimulatorThread(MIXED) as upstream:
        ended = expunge("run", expunge.csv(ids), "--json", "--out", "out.xlsx", EXPUNGE_UPSTREAM_URL=upstream.url)
    assert ended.returncode == 3, ended.stderr
    batch = json.loads(ended.stdout)["batch"]
    written = expunge("report", batch, "--out", "out.bin", "--format", "parquet")
    assert written.returncode == 0, written.stderr
    _, *rows = openpyxl.load_workbook(expunge.folder / "out.xlsx")["Report"].iter_rows(values_only=True)
    table = parquet.read_table(expunge.folder / "out.bin").to_pylist()
    assert [row[0] for row in rows] == [row["customer_id"] for row in table] == ids
    assert table[-1]["expunge_missing_field"] == ["tax_id", "dob"]
    for name, report_format in (("out.xlsx", "xlsx"), ("out.bin", "parquet")):
        manifest = json.loads((expunge.folder / f"{name}.manifest.json").read_text())["report"]
        assert manifest["sha256"] == hashlib.sha256((expunge.folder / name).read_bytes()).hexdigest()
        assert (manifest["format"], manifest["lines"]) == (report_format, len(ids))


def test_what_does_not_fit_into_a_workbook_is_refused_before_anything_is_sent(expunge: Expunge) -> None:
    (expunge.folder / "long.csv").write_text(f"customer_id,note\nc1,x\nc2,{'x' * 32_768}\n")
    with SimulatorThread(MIXED) as upstream:
        ended = expunge("run", "long.csv", "--format", "xlsx", EXPUNGE_UPSTREAM_URL=upstream.url)
        assert ended.returncode == 2, ended.stderr
        assert "row 2, column 'note': 32,768 characters" in ended.stderr
        assert len(upstream.log) == 0
    assert not list(expunge.folder.glob("*.xlsx"))


def test_a_format_that_is_not_installed_is_refused_before_anything_is_sent(expunge: Expunge) -> None:
    (expunge.folder / "absent").mkdir()
    (expunge.folder / "absent" / "sitecustomize.py").write_text(
        "import importlib.util as its\nfind = its.find_spec\n"
        "its.find_spec = lambda name, *rest: None if name == 'pyarrow' else find(name, *rest)\n"
    )
    with SimulatorThread(MIXED) as upstream:
        ended = expunge(
            *("run", expunge.csv(["c1"]), "--out", "out.parquet"),
            EXPUNGE_UPSTREAM_URL=upstream.url,
            PYTHONPATH=str(expunge.folder / "absent"),
        )
        assert ended.returncode == 2, ended.stderr
        assert "pip install 'expunge[parquet]'" in ended.stderr
        assert len(upstream.log) == 0


def test_a_report_that_cannot_be_written_in_the_end_is_written_by_the_command_that_is_named(
    expunge: Expunge, make_ids: MakeIds
) -> None:
    """All is sent by then: it is no bad input, which would mean that nothing was."""
    folder = expunge.folder / "reports"
    folder.mkdir()
    run = expunge.start("run", expunge.csv(make_ids(30)), "--simulate", "--out", "reports/all.csv")
    assert run.stderr is not None
    while "accepted" not in run.stderr.readline():
        pass
    folder.rmdir()
    told = run.communicate(timeout=TIMEOUT)[1]
    assert run.returncode == 1, told
    command = told.rpartition("written later: expunge ")[2].split()
    assert command[0] == "report", told
    folder.mkdir()
    assert expunge(*command).returncode == 0
    assert len(read_report(folder / "all.csv")) == 30


@pytest.mark.parametrize("command", [("report", "{batch}"), ("report", "{batch}", "--format", "xlsx"), ("batches",)])
def test_a_full_disk_behind_stdout_is_one_line(expunge: Expunge, make_ids: MakeIds, command: tuple[str, ...]) -> None:
    run = json.loads(expunge("run", expunge.csv(make_ids(3)), "--simulate", "--json").stdout)
    words = [word.format(batch=run["batch"]) for word in command]
    with Path("/dev/full").open("w") as full:
        python = [sys.executable, "-P", "-m", "worker.cli", *words, "--simulate"]
        ended = subprocess.run(python, cwd=expunge.folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("expunge: no space left")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--out", "a.xlsx", "--format", "csv"), "--format csv is not what the name a.xlsx says"),
        (("--out", "a.XLSX", "--delimiter", ";"), "only a CSV report has one, and this is xlsx"),
        (("--format", "jsonl", "--delimiter", ";"), "only a CSV report has one, and this is jsonl"),
    ],
)
def test_what_contradicts_itself_about_a_report_is_refused(expunge: Expunge, words: tuple[str, ...], told: str) -> None:
    ended = expunge("report", "6h0sff8xz3nj5", "--simulate", *words)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert told in ended.stderr
