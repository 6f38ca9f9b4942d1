"""Batches: how they stand."""

from typing import Any

from fastapi import APIRouter

from worker.reports.as_json import batch_json
from worker.web.access import Looking, LookingAt
from worker.web.state import TheSettings, TheStore

router = APIRouter(prefix="/v1/batches", tags=["batches"])


@router.get("")
async def batches(_: Looking, store: TheStore, settings: TheSettings) -> dict[str, Any]:
    """The newest batches first."""
    found = [batch for batch in await store.batches.recent(50) if batch.description.target == settings.target]
    return {"batches": [batch_json(batch) for batch in found]}


@router.get("/{batch_id}")
async def batch(admitted: LookingAt) -> dict[str, Any]:
    """How a batch stands."""
    return batch_json(admitted.batch)
