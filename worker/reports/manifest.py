"""The manifest beside a report: what an auditor needs to tell that a report is whole and what it is of (SPEC 9)."""

from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from worker.domain.batches import Batch
from worker.domain.errors import InputError
from worker.domain.outcomes import Outcome, Reason
from worker.reports.columns import ReportFormat, rfc3339
from worker.reports.pages import Written
from worker.reports.writing import replacing


def manifest(batch: Batch, report: Written, *, version: str, written_at: float) -> dict[str, Any]:
    """The manifest as JSON values; ``written_at`` in seconds since the epoch, all times in it RFC 3339, UTC."""
    description = batch.description
    only = None if report.only is None else [outcome.value for outcome in Outcome if outcome in report.only]
    return {
        "batch": batch.id,
        "state": batch.state.value,
        "state_reason": None if batch.state_reason is None else batch.state_reason.value,
        "environment": description.target.environment.value,
        "merchant": description.target.merchant,
        "reference": description.reference,
        "submitted_by": description.submitted_by,
        "approved_by": batch.approved_by,
        "approved_at": None if batch.approved_at is None else rfc3339(batch.approved_at),
        "input": {
            "name": description.source,
            "sha256": description.sha256,
            "rows": description.rows,
            "id_column": description.id_column,
        },
        "report": {
            "name": None if report.path is None else report.path.name,
            "sha256": report.sha256,
            "lines": report.lines,
            "format": report.format.value,
            "only": only,
        },
        "tally": batch.tally.by_outcome(),
        "reasons": {reason.text: batch.tally.reasons[reason] for reason in Reason if batch.tally.reasons.get(reason)},
        "created_at": rfc3339(batch.created_at),
        "ended_at": None if batch.ended_at is None else rfc3339(batch.ended_at),
        "written_at": rfc3339(written_at),
        "version": version,
    }


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)  # what later releases add is left alone


class Submitted(_Part):
    """What the batch was made of."""

    sha256: str
    rows: NonNegativeInt
    id_column: str | None = None


class Reported(_Part):
    """The report as it was written."""

    sha256: str
    lines: NonNegativeInt
    format: ReportFormat
    only: list[str] | None = None


class Manifest(_Part):
    """What a manifest says, as far as a report can be checked against it."""

    batch: str
    input: Submitted
    report: Reported
    tally: dict[str, NonNegativeInt]
    reasons: dict[str, NonNegativeInt]
    ended_at: str | None


def place_of(report_path: str | Path) -> Path:
    """Where the manifest of a report lies."""
    return Path(f"{report_path}.manifest.json")


def read_manifest(path: Path) -> Manifest:
    """Read it back; raises InputError when it is not there or is none."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(str(path), "does not exist: the manifest must lie beside its report") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror}): check the path") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            str(path), f"is no manifest of a report ({f'{where}: ' if where else ''}{first['msg']})"
        ) from None


def write_manifest(report_path: str | Path, batch: Batch, report: Written, *, version: str, written_at: float) -> Path:
    """Write it to ``<report>.manifest.json``, whole or not at all; raises UsageError as ``write_report`` does."""
    target = place_of(report_path)
    content = manifest(batch, report, version=version, written_at=written_at)
    with replacing(target) as write:
        write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return target
