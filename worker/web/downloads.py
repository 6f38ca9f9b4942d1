"""Reports and manifests: streamed, page by page, so that memory does not grow with the batch."""

import asyncio
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response, StreamingResponse

from worker.domain.batches import Batch
from worker.pipeline.reporting import rows_of
from worker.reports.columns import ReportFormat, outcomes_named
from worker.reports.manifest import manifest
from worker.reports.pages import ReportPages
from worker.store.batches import Batches
from worker.web.access import LookingAt
from worker.web.problems import Kind, documented
from worker.web.state import TheStore

router = APIRouter(prefix="/v1/batches", tags=["reports"], responses=documented(Kind.NOT_FOUND))
_TYPES = {ReportFormat.CSV: "text/csv; charset=utf-8", ReportFormat.JSONL: "application/x-ndjson"}

Format = Annotated[ReportFormat, Query(alias="format", description="`csv` or `jsonl`.")]
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
    responses={200: {"content": {"text/csv": {}, "application/x-ndjson": {}}, "description": "The report."}},
)
async def download_report(
    admitted: LookingAt, store: TheStore, report_format: Format = ReportFormat.CSV, only: Only = None
) -> Response:
    """What became of each row; of a batch that still runs, pending rows included."""
    batch = admitted.batch
    stream = _bytes(store.batches, batch, _pages(batch, report_format, only))
    return StreamingResponse(
        stream,
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
    async for _ in _bytes(store.batches, batch, pages):
        pass
    content = manifest(batch, pages.written, version=version("expunge"), written_at=time.time())
    return JSONResponse(content, headers={"Content-Disposition": _attachment(f"{batch.id}.manifest.json")})


def _pages(batch: Batch, report_format: ReportFormat, only: str | None) -> ReportPages:
    return ReportPages(report_format, batch.description.stored_columns, only=outcomes_named(only))


async def _bytes(batches: Batches, batch: Batch, pages: ReportPages) -> AsyncIterator[bytes]:
    yield pages.begin()
    async for lines in batches.pages(batch):
        yield await asyncio.to_thread(pages.add, rows_of(batch, lines))


def _attachment(name: str) -> str:
    return f'attachment; filename="{name}"'
