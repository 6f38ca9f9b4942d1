"""Batches, holds and the audit trail as JSON values: the same keys for command line and HTTP API (docs/json.md)."""

from typing import Any

from worker.domain.audit import Entry
from worker.domain.batches import Batch
from worker.domain.brakes import Tripped
from worker.domain.deadlines import expected_end, is_on_time
from worker.domain.holds import Hold
from worker.domain.outcomes import Reason
from worker.reports.columns import rfc3339


def batch_json(batch: Batch) -> dict[str, Any]:
    """The one schema of a batch, wherever it is shown."""
    description = batch.description
    return {
        "batch": batch.id,
        "state": batch.state.value,
        "state_reason": batch.state_reason.value if batch.state_reason else None,
        "environment": description.target.environment.value,
        "merchant": description.target.merchant,
        "upstream": description.target.upstream,
        "reference": description.reference,
        "lane": description.lane.value,
        "submitted_by": description.submitted_by,
        "approved_by": batch.approved_by,
        "approved_at": rfc3339(batch.approved_at) if batch.approved_at else None,
        "source": description.source,
        "sha256": description.sha256,
        "rows": description.rows,
        "tally": batch.tally.by_outcome(),
        "reasons": {reason.text: batch.tally.reasons[reason] for reason in Reason if batch.tally.reasons.get(reason)},
        "created_at": rfc3339(batch.created_at),
        "ended_at": rfc3339(batch.ended_at) if batch.ended_at else None,
        "probe_at": rfc3339(batch.probe_at) if batch.probe_at else None,
        "tripped": _tripped_json(batch.tripped) if batch.tripped else None,
        "due": rfc3339(description.due) if description.due else None,
        "retry_of": description.retry_of,
        "retried_by": batch.retried_by,
        "despite": [brake.value for brake in batch.despite],
        "canary_left": batch.canary_left,
    }


def status_json(batch: Batch, workers: int, rate: float, now: float) -> dict[str, Any]:
    """A batch, and whether it gets on: ``workers`` are alive for it, and ``rate`` is the limit, records a second."""
    expected = expected_end(batch, rate, now)
    end = rfc3339(expected) if expected else None
    return batch_json(batch) | {"workers": workers, "expected_end": end, "on_time": is_on_time(batch, expected)}


def _tripped_json(tripped: Tripped) -> dict[str, Any]:
    return {
        "count": tripped.count,
        "done": tripped.done,
        "threshold": tripped.threshold,
        "canary": tripped.canary,
    }


def hold_json(held: Hold) -> dict[str, Any]:
    """A hold that stands."""
    return {
        "customer_id": held.customer_id,
        "ground": held.term.ground,
        "since": rfc3339(held.since),
        "until": rfc3339(held.term.until) if held.term.until else None,
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """A line of the audit trail."""
    return {
        "at": rfc3339(entry.at),
        "actor": entry.actor,
        "deed": entry.deed.value,
        "batch": entry.batch_id,
        "detail": dict(entry.detail),
    }
