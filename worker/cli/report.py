"""``expunge report``: what became of each row, as a file or on stdout."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import say
from worker.domain.batches import Batch
from worker.domain.errors import InputError, UsageError
from worker.domain.outcomes import Outcome
from worker.domain.people import Act
from worker.intake.csv_file import CsvFile
from worker.pipeline.reporting import rows_asked, rows_of
from worker.reports.columns import ReportFormat, ReportRow, outcomes_named
from worker.reports.formats import check_format
from worker.reports.manifest import write_manifest
from worker.reports.pages import Written
from worker.reports.writing import stream_report, write_report
from worker.settings import load_settings
from worker.store.batches import Line
from worker.wiring import Store

Delimiter = Annotated[
    str | None, typer.Option(metavar="CHAR", help="Of a CSV report: , ; | or tab; by default the comma.")
]
Format = Annotated[
    ReportFormat | None, typer.Option("--format", help="By default what the name of --out says, else csv.")
]
_ENDINGS = {
    ".csv": ReportFormat.CSV,
    ".jsonl": ReportFormat.JSONL,
    ".ndjson": ReportFormat.JSONL,
    ".xlsx": ReportFormat.XLSX,
    ".parquet": ReportFormat.PARQUET,
}
_BINARY = (ReportFormat.XLSX, ReportFormat.PARQUET)
_DELIMITERS = {",": ",", ";": ";", "|": "|", "tab": "\t", "\t": "\t", "\\t": "\t"}


def report(
    batch_id: session.BatchId,
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write it; - for stdout.")] = "-",
    report_format: Format = None,
    delimiter: Delimiter = None,
    only: Annotated[
        str | None, typer.Option(metavar="OUTCOMES", help="Only rows of these outcomes, joined by commas.")
    ] = None,
    join: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The submitted file: its other columns are put into the report.")
    ] = None,
    me: session.As = None,
    simulate: session.Simulated = False,
) -> None:
    """Write a batch's reconciliation report; of a batch that still runs, pending rows included."""
    chosen = format_of(out, report_format)
    check_output(out, chosen)
    if join is not None:
        refuse_overwriting(out, str(join))
    separator, outcomes = _delimiter(delimiter, chosen), outcomes_named(only)
    settings = load_settings()
    caller = Caller(settings, me, Act.LOOK, batch_id, simulate)

    async def write() -> None:
        async with session.opened_store(reachable) as store:
            await caller.admitted(store)
            batch = await session.found(store, batch_id)
            if join is None:
                await write_out(store, batch, None, out, chosen, separator, outcomes)
                return
            with session.open_csv(str(join), batch.description.id_column, settings, skip_bad_rows=True) as csv_file:
                await write_out(store, batch, csv_file, out, chosen, separator, outcomes)

    with caller.audited(), session.running_redis(settings, simulate=simulate) as reachable:
        asyncio.run(write())


def check_output(out: str, report_format: ReportFormat) -> None:
    """Raise UsageError if the format is not installed, or would be shown on a terminal as the bytes that it is."""
    check_format(report_format)
    if out == "-" and report_format in _BINARY and sys.stdout.isatty():
        raise UsageError(f"{report_format.value} is not for a terminal: name a file with --out, or redirect stdout")


def refuse_overwriting(out: str, source: str) -> None:
    """A report must not take the place of its input, which may be the only copy."""
    if "-" not in (out, source) and Path(out).resolve() == Path(source).resolve():
        raise UsageError(f"--out: {out} is the input; name another file for the report")


async def write_out(
    store: Store,
    batch: Batch,
    csv_file: CsvFile | None,
    out: str,
    report_format: ReportFormat,
    delimiter: str = ",",
    only: frozenset[Outcome] | None = None,
) -> Written:
    """Write the report, joined with the input's columns if the file is given, and its manifest beside it."""
    loop = asyncio.get_running_loop()
    lines = _drive(loop, store.batches.pages(batch))
    columns, rows = batch.description.stored_columns, rows_of(batch, lines)
    if csv_file is not None:
        columns, rows = csv_file.columns, _joined(batch, csv_file, lines)
    check_format(report_format, rows_asked(batch, only), columns)
    if out == "-":
        return await asyncio.to_thread(
            stream_report, sys.stdout.buffer, report_format, columns, rows, delimiter=delimiter, only=only
        )
    written = await asyncio.to_thread(write_report, out, report_format, columns, rows, delimiter=delimiter, only=only)
    manifest = write_manifest(out, batch, written, version=version("expunge"), written_at=time.time())
    say(f"report: {out} ({written.lines:,} rows), manifest: {manifest}")
    return written


def _drive(loop: asyncio.AbstractEventLoop, pages: AsyncIterator[Iterable[Line]]) -> Iterator[Line]:
    """Iterate over the store's pages from another thread than the loop's; one is fetched while another is written."""

    async def following() -> Iterable[Line] | None:
        return await anext(pages, None)

    upcoming = asyncio.run_coroutine_threadsafe(following(), loop)
    try:
        while (page := upcoming.result()) is not None:
            upcoming = asyncio.run_coroutine_threadsafe(following(), loop)
            yield from page
    finally:
        upcoming.cancel()


def _joined(batch: Batch, csv_file: CsvFile, lines: Iterator[Line]) -> Iterator[ReportRow]:
    cells: Iterator[Sequence[str]] = csv_file.cells(sha256=batch.description.sha256)
    for line in lines:
        row = next(cells, None)
        if row is None:
            break
        yield ReportRow(line.row, row, line.result, batch.id)
    if next(cells, None) is not None:
        raise InputError(batch.description.source, "is not the file that this batch was made of")


def format_of(out: str, given: ReportFormat | None = None) -> ReportFormat:
    """What is asked for, or what the file's name says; raises UsageError if these are not the same."""
    named = _ENDINGS.get(Path(out).suffix.lower())
    if given is not None and named not in (None, given):
        raise UsageError(f"--format {given.value} is not what the name {out} says; give the file another name")
    return given or named or ReportFormat.CSV


def _delimiter(text: str | None, report_format: ReportFormat) -> str:
    if text is None:
        return ","
    if report_format is not ReportFormat.CSV:
        raise UsageError(f"--delimiter: only a CSV report has one, and this is {report_format.value}")
    if text not in _DELIMITERS:
        raise UsageError(f"--delimiter: '{text}' is none of , ; | tab")
    return _DELIMITERS[text]
