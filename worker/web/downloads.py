"""Reports and manifests: made page by page, so that memory does not grow with the batch."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, closing
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response, StreamingResponse

from worker.domain.batches import Batch
from worker.domain.errors import FormatError
from worker.pipeline.reporting import rows_asked, rows_of
from worker.reports.columns import ReportFormat, outcomes_named
from worker.reports.formats import XLSX_ROWS_OVER_HTTP, check_format, is_made_over_http
from worker.reports.manifest import manifest
from worker.reports.pages import ReportPages
from worker.store.batches import Batches
from worker.web.access import LookingAt
from worker.web.problems import Kind, documented
from worker.web.state import TheStore

router = APIRouter(prefix="/v1/batches", tags=["reports"], responses=documented(Kind.NOT_FOUND, Kind.FORMAT))
_TYPES = {
    ReportFormat.CSV: "text/csv; charset=utf-8",
    ReportFormat.JSONL: "application/x-ndjson",
    ReportFormat.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ReportFormat.PARQUET: "application/vnd.apache.parquet",
}
_CONTENT: dict[str, dict[str, object]] = {media_type.partition(";")[0]: {} for media_type in _TYPES.values()}

Format = Annotated[ReportFormat, Query(alias="format", description="`csv`, `jsonl`, `xlsx` or `parquet`.")]
Only = Annotated[
    str | None,
    Query(
        max_length=100,
        description="Only rows of these outcomes, joined by commas.",
        examples=["failed,unknown"],
    ),
]


@router.get(
    "/{batch_id}/report",
    response_class=StreamingResponse,
    responses={200: {"content": _CONTENT, "description": "The report."}},
)
async def download_report(
    admitted: LookingAt, store: TheStore, report_format: Format = ReportFormat.CSV, only: Only = None
) -> Response:
    """What became of each row; of a batch that still runs, pending rows included.

    It is sent as it is made, but for `xlsx`, which is sent when it is whole.
    """
    batch = admitted.batch
    made = _made(store.batches, batch, _pages(batch, report_format, only))
    first = await anext(made, b"")  # what cannot be made is told instead of a report, and not in the middle of one
    return StreamingResponse(
        _with(first, made),
        media_type=_TYPES[report_format],
        headers={"Content-Disposition": _attachment(f"{batch.id}.report.{report_format.value}")},
    )


@router.get("/{batch_id}/manifest", responses={200: {"content": {"application/json": {}}}})
async def download_manifest(
    admitted: LookingAt, store: TheStore, report_format: Format = ReportFormat.CSV, only: Only = None
) -> Response:
    """What an auditor needs to tell that a report of this format and these rows is whole: its SHA-256 and length.

    The report is made for it, so it takes as long.
    """
    batch = admitted.batch
    pages = _pages(batch, report_format, only)
    async for _ in _made(store.batches, batch, pages):
        pass
    content = manifest(batch, pages.written, version=version("expunge"), written_at=time.time())
    return JSONResponse(content, headers={"Content-Disposition": _attachment(f"{batch.id}.manifest.json")})


def _pages(batch: Batch, report_format: ReportFormat, only: str | None) -> ReportPages:
    columns, outcomes = batch.description.stored_columns, outcomes_named(only)
    rows = rows_asked(batch, outcomes)
    check_format(report_format, rows, columns)
    if not is_made_over_http(report_format, rows):
        raise FormatError(
            f"the report has {rows:,} rows, and xlsx is made here for {XLSX_ROWS_OVER_HTTP:,} at most: "
            "take csv or parquet, fewer rows by `only`, or have it written at the command line"
        )
    return ReportPages(report_format, columns, only=outcomes)


async def _made(batches: Batches, batch: Batch, pages: ReportPages) -> AsyncGenerator[bytes, None]:
    """The report's bytes as they get ready, without empty pieces."""
    with closing(pages):
        async for lines in batches.pages(batch):
            if piece := await asyncio.to_thread(pages.add, rows_of(batch, lines)):
                yield piece
        ending = pages.end()
        while (last := await asyncio.to_thread(lambda: next(ending, None))) is not None:
            if last:
                yield last


async def _with(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _attachment(name: str) -> str:
    return f'attachment; filename="{name}"'
