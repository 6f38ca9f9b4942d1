"""The report's own columns (SPEC 9): their names, their order and what stands in them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from worker.domain.errors import UsageError
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import Result
from worker.domain.spreadsheet import guard

COLUMNS = (
    "expunge_row",
    "expunge_outcome",
    "expunge_reason",
    "expunge_missing_field",
    "expunge_retryable",
    "expunge_next_step",
    "expunge_http_status",
    "expunge_attempts",
    "expunge_request_id",
    "expunge_finished_at",
    "expunge_first_row",
    "expunge_batch",
)

Value: TypeAlias = str | int | bool | list[str] | None


class ReportFormat(StrEnum):
    """How a report is written."""

    CSV = "csv"
    JSONL = "jsonl"
    XLSX = "xlsx"
    PARQUET = "parquet"


class ReportRow(NamedTuple):
    """One input row and what became of it."""

    number: int
    cells: Sequence[str]
    """The input's columns as they were."""
    result: Result | None
    """None while the record is pending."""
    batch: str

    @property
    def outcome(self) -> Outcome:
        """Its result's outcome, or ``pending``."""
        return Outcome.PENDING if self.result is None else self.result.outcome


def outcomes_named(text: str | None) -> frozenset[Outcome] | None:
    """What ``--only`` asks for, ``None`` for all; raises ``UsageError`` unless it is outcomes joined by commas."""
    if text is None:
        return None
    try:
        return frozenset(Outcome(word.strip()) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--only: '{text}' must be outcomes joined by commas: {', '.join(Outcome)}") from None


def unique_names(columns: Sequence[str]) -> list[str]:
    """The input's column names, where each must occur once: a name that occurs before gets ``_2``, ``_3`` and so on."""
    taken = {*columns, *COLUMNS}
    names: list[str] = []
    for column in columns:
        name, count = column, 1
        if column in names or column in COLUMNS:
            while name in taken:
                count += 1
                name = f"{column}_{count}"
            taken.add(name)
        names.append(name)
    return names


class _Explained(NamedTuple):
    """What a reason alone puts into a report; looking an enum member's value up is slow."""

    outcome: str
    reason: str
    retryable: bool
    next_step: str


_EXPLAINED = {
    reason: _Explained(reason.outcome.value, reason.text, reason.retryable, reason.next_step) for reason in Reason
}


def words(
    reason: Reason, missing_field: tuple[str, ...], note: str | None, http_status: int | None, attempts: int
) -> list[str]:
    """The values from ``expunge_outcome`` to ``expunge_attempts`` as CSV has them, guarded as it must be."""
    outcome, text, retryable, next_step = _EXPLAINED[reason]
    return [
        outcome,
        text,
        guard(";".join(missing_field)),
        "true" if retryable else "false",
        f"{next_step} ({note})" if note else next_step,
        "" if http_status is None else str(http_status),
        str(attempts),
    ]


def typed(row: ReportRow) -> list[Value]:
    """The values under ``COLUMNS`` with their types: numbers, booleans, a list of missing fields; None if not known."""
    number, _, result, batch = row
    if result is None:
        return [number, Outcome.PENDING.value, None, [], None, None, None, None, None, None, None, batch]
    outcome, reason, retryable, next_step = _EXPLAINED[result.reason]
    return [
        number,
        outcome,
        reason,
        list(result.missing_field),
        retryable,
        f"{next_step} ({result.note})" if result.note else next_step,
        result.http_status,
        result.attempts,
        result.request_id,
        None if result.finished_at is None else rfc3339(result.finished_at),
        result.first_row,
        batch,
    ]


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as UTC, cut to whole seconds: ``2026-01-31T12:00:00Z``."""
    return _whole_second(int(seconds))


@lru_cache(maxsize=4096)  # neighbouring rows mostly end within the same second
def _whole_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
