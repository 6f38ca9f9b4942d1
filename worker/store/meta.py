"""What a batch is, as fields of a hash in Redis."""

from collections.abc import Mapping

import orjson

from worker.domain.batches import Batch, BatchState, Description, Environment, Lane, StateReason, Tally, Target
from worker.domain.brakes import Brakes, Despite, Tripped
from worker.domain.outcomes import REASON_BY_TEXT
from worker.store import keys


def file_key(description: Description) -> str:
    """Where the batch last made of the same file is noted."""
    return keys.of_file(description.sha256, description.target)


def reference_key(description: Description) -> str | None:
    """Where the batch of that reference is noted, if there is one."""
    return keys.of_reference(description.reference, description.target) if description.reference else None


def to_meta(description: Description) -> dict[str, str | int | bytes | float]:
    """The fields that a batch begins with."""
    return {
        "environment": description.target.environment.value,
        "merchant": description.target.merchant,
        "upstream": description.target.upstream,
        "source": description.source,
        "sha256": description.sha256,
        "rows": description.rows,
        "shard_size": description.shard_size,
        "shards": description.shards,
        "id_column": description.id_column,
        "columns": orjson.dumps(description.columns),
        "kept": orjson.dumps(description.kept),
        "reference": description.reference or "",
        "lane": description.lane.value,
        "failure_threshold": description.brakes.failure_threshold,
        "not_found_threshold": description.brakes.not_found_threshold,
        "canary": description.brakes.canary,
        "due": description.due or "",
        "retry_of": description.retry_of or "",
        "submitted_by": description.submitted_by or "",
        "needs_approval": int(description.needs_approval),
    }


def to_batch(batch_id: str, raw_meta: Mapping[bytes, bytes], raw_tally: Mapping[bytes, bytes]) -> Batch:
    """Read what ``to_meta`` and the scripts wrote."""
    meta = {field.decode(): value.decode() for field, value in raw_meta.items()}
    tally = {field.decode(): int(count) for field, count in raw_tally.items()}
    description = Description(
        target=Target(Environment(meta["environment"]), meta["merchant"], meta["upstream"]),
        source=meta["source"],
        sha256=meta["sha256"],
        rows=int(meta["rows"]),
        shard_size=int(meta["shard_size"]),
        id_column=meta["id_column"],
        columns=tuple(orjson.loads(meta["columns"])),
        kept=tuple(orjson.loads(meta.get("kept", "[]"))),
        reference=meta["reference"] or None,
        due=float(meta["due"]) if meta["due"] else None,
        retry_of=meta["retry_of"] or None,
        lane=Lane(meta["lane"]),
        brakes=Brakes(float(meta["failure_threshold"]), float(meta["not_found_threshold"]), int(meta["canary"])),
        submitted_by=meta["submitted_by"] or None,
        needs_approval=meta["needs_approval"] == "1",
    )
    return Batch(
        id=batch_id,
        description=description,
        state=BatchState(meta["state"]),
        state_reason=StateReason(meta["state_reason"]) if "state_reason" in meta else None,
        tally=Tally(tally.pop("pending", 0), {REASON_BY_TEXT[name]: count for name, count in tally.items()}),
        created_at=int(meta["created_at"]) / 1000,
        ended_at=int(meta["ended_at"]) / 1000 if "ended_at" in meta else None,
        probe_at=int(meta["probe_at"]) / 1000 if "probe_at" in meta else None,
        tripped=_to_tripped(meta["state_reason"], meta["tripped"]) if "tripped" in meta else None,
        despite=tuple(map(Despite, meta.get("despite", "").split())),
        retried_by=meta.get("retried_by"),
        canary_left=int(meta["canary_left"]) if "canary_left" in meta else None,
        approved_by=meta.get("approved_by") or None,
        approved_at=int(meta["approved_at"]) / 1000 if "approved_at" in meta else None,
    )


def _to_tripped(reason: str, numbers: str) -> Tripped:
    """Read what record.lua wrote: count, done, threshold, whether it was the canary."""
    count, done, threshold, canary = numbers.split()
    return Tripped(Despite(reason), int(count), int(done), float(threshold), canary == "1")
