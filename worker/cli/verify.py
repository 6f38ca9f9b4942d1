"""``expunge verify``: whether a report is whole; asks neither Redis nor the network, and writes nothing."""

import hashlib
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.output import emit, reading_bar, say
from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError
from worker.intake.csv_file import DEFAULT_COLUMN, CsvFile
from worker.reports.manifest import Manifest, place_of, read_manifest
from worker.reports.reading import READABLE
from worker.reports.verifying import Check, Rows, check_cells, check_digest, check_form, check_manifest

_ANY_ID = IdRule.of(".+")  # the batch's own pattern is not known here


def verify(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="A report, with its manifest beside it.")],
    source: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="The submitted file: is each of its rows there?")
    ] = None,
    json: session.Json = False,
) -> None:
    """Check a report against its manifest, and against the submitted file. Needs no Redis."""
    digest = _digest(report)
    manifest = read_manifest(place_of(report))
    checks = [check_digest("report", digest, manifest.report.sha256), check_manifest(manifest)]
    given = None if source is None else check_digest("input", _digest(source), manifest.input.sha256)
    if manifest.report.format in READABLE:
        checks += _look_through(report, manifest, source)
    else:
        with report.open("rb") as file:
            checks.append(check_form(manifest.report.format, file.read(4)))
    if given is not None:
        checks.append(given)
    ok = all(check.ok for check in checks)
    for check in checks:
        say(f"{'ok' if check.ok else 'wrong':<6} {check.name:<11} {check.text}")
    if json:
        emit({"ok": ok, "batch": manifest.batch, "checks": [check.as_json() for check in checks]})
    if not ok:
        raise typer.Exit(3)


def _look_through(report: Path, manifest: Manifest, source: Path | None) -> list[Check]:
    with report.open("rb") as file, reading_bar() as bar:
        rows = Rows(manifest, file)
        lines = bar.track(rows.seen(), total=manifest.report.lines)
        if source is None:
            deque(lines, maxlen=0)
            return rows.checks
        column = manifest.input.id_column or DEFAULT_COLUMN
        try:
            with CsvFile.open(source, column=column, rule=_ANY_ID, skip_bad_rows=True) as csv_file:
                cells = check_cells(manifest, rows.columns, lines, csv_file.columns, csv_file.cells())
        except InputError as error:  # it is there, but is no file of which a batch was made
            deque(lines, maxlen=0)
            cells = Check("cells", "")
            cells.wrong(str(error))
        return [*rows.checks, cells]


def _digest(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise InputError(str(path), "is no ordinary file: name a report or the file it is of")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(str(path), "does not exist: check the path") from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or 'not a path'}): check the path"
        raise InputError(str(path), problem) from None
