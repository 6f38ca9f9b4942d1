"""What the API answers, for its description and as a check of it (docs/json.md has each key)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_BATCH: dict[str, Any] = {
    "batch": "6h0sgvnab11e7",
    "state": "running",
    "state_reason": None,
    "environment": "sandbox",
    "merchant": "m1",
    "upstream": "9c5609ddd0bf",
    "reference": "erasures of May",
    "lane": "bulk",
    "submitted_by": "anna",
    "approved_by": None,
    "approved_at": None,
    "source": "customers.csv",
    "sha256": "9f2c1d7ab5fd0a3df1cf3d2cd6c31b2f9a9c9a3b0b5d8c52a8f29a4c1d3b7e60",
    "rows": 1188,
    "tally": {
        "deleted": 800, "absent": 20, "rejected": 0, "failed": 0, "unknown": 0, "skipped": 20, "pending": 348,
    },
    "reasons": {"confirmed": 800, "not_found": 20, "invalid_id": 5, "duplicate": 15},
    "created_at": "2026-01-31T12:00:00Z",
    "ended_at": None,
    "probe_at": None,
    "tripped": None,
    "due": "2026-02-28T23:59:59Z",
    "retry_of": None,
    "retried_by": None,
    "despite": [],
    "canary_left": None,
}  # fmt: skip


class Tripped(BaseModel):
    """The numbers of a brake that holds a batch."""

    count: int
    done: int
    threshold: float
    canary: bool


class BatchBody(BaseModel):
    """A batch."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _BATCH})

    batch: str
    state: str
    state_reason: str | None
    environment: str
    merchant: str
    upstream: str
    reference: str | None
    lane: str
    submitted_by: str | None
    approved_by: str | None
    approved_at: str | None
    source: str
    sha256: str
    rows: int
    tally: dict[str, int]
    reasons: dict[str, int]
    created_at: str
    ended_at: str | None
    probe_at: str | None
    tripped: Tripped | None
    due: str | None
    retry_of: str | None
    retried_by: str | None
    despite: list[str]
    canary_left: int | None


class StatusBody(BatchBody):
    """A batch, and whether it gets on."""

    model_config = ConfigDict(
        json_schema_extra={"example": _BATCH | {"workers": 4, "expected_end": "2026-01-31T12:00:30Z", "on_time": True}}
    )

    workers: int
    expected_end: str | None
    on_time: bool | None


class BatchesBody(BaseModel):
    """A page of batches, newest first."""

    batches: list[BatchBody]
    next: str | None = Field(
        description="`after` of the next page; null at the end", examples=["1769860800000-6h0sgvnab11e7"]
    )


class InvalidLine(BaseModel):
    """A row whose ID is not acceptable."""

    line: int
    problem: str


class Earlier(BaseModel):
    """The batches before."""

    batches: int
    largest: int


class PlanBody(BaseModel):
    """What a submission would do."""

    model_config = ConfigDict(extra="forbid")

    plan: str = Field(examples=["plan-4f0c2a91d7b35e68"])
    source: str
    sha256: str
    environment: str
    merchant: str
    id_column: str
    rows: int
    valid: int
    invalid: int
    duplicates: int
    on_hold: int | None
    deleted_earlier: int | None
    to_send: int
    rate: str
    seconds: float
    earlier: Earlier | None
    invalid_lines: list[InvalidLine]


class PreviewBody(PlanBody):
    """The same, and the beginning of the file."""

    columns: list[str]
    first_rows: list[list[str]] = Field(description="the cells of the first ten rows, under `columns`")


class HoldBody(BaseModel):
    """A customer on hold."""

    customer_id: str
    ground: str
    since: str
    until: str | None


class HoldsBody(BaseModel):
    """Holds, those first that stand longest."""

    holds: list[HoldBody]
    total: int = Field(description="how many there are in all")


class DeletedBody(BaseModel):
    """A customer who was deleted before they came on hold."""

    customer_id: str
    batch: str
    at: str


class HeldBody(BaseModel):
    """What became of a new hold."""

    on_hold: int
    changed: int
    deleted_earlier: list[DeletedBody] = Field(description="whom the hold comes too late for; it stands all the same")


class HeldBackBody(BaseModel):
    """A record of an ended batch that was held back."""

    batch: str
    row: int
    customer_id: str


class ReleasedBody(BaseModel):
    """What became of a release."""

    released: int
    held_back: list[HeldBackBody]


class EntryBody(BaseModel):
    """A line of the audit trail."""

    at: str
    actor: str | None
    deed: str
    batch: str | None
    detail: dict[str, str]


class AuditBody(BaseModel):
    """A page of the audit trail, newest first."""

    entries: list[EntryBody]
    next: str | None = Field(description="`before` of the next page; null at the end")


class TakenBody(BaseModel):
    """An event that counts."""

    source: str = Field(examples=["/crm"])
    id: str = Field(examples=["17"])
    reference: str = Field(
        description="of the batch that it becomes part of: `GET /v1/batches?reference=...`",
        examples=["events-6h0sgvnab11e7"],
    )


class EventsBody(BaseModel):
    """Events that count, in the order of the request; the same when they are sent again."""

    events: list[TakenBody]


class HealthBody(BaseModel):
    """Whether it is well."""

    ok: bool


class ProblemBody(BaseModel):
    """What is wrong (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:expunge:problem:not_found",
                "title": "There is no such thing",
                "status": 404,
                "detail": "there is no such batch here; it may have expired",
            }
        },
    )

    type: str = Field(description="a URI that stays; docs/api.md has all")
    title: str
    status: int
    detail: str = Field(description="one sentence for a person")
