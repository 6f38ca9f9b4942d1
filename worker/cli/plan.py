"""``expunge plan``: what a run would do; sends and stores nothing."""

import asyncio
import time
from typing import Any

import typer

from worker.cli import session
from worker.cli.output import duration, emit
from worker.domain.errors import UsageError
from worker.intake.csv_file import CsvFile
from worker.settings import Settings, load_settings
from worker.store.connection import readable_errors
from worker.wiring import open_store, redis_url


def plan(
    file: session.File,
    column: session.Column = "customer_id",
    skip_bad_rows: session.SkipBadRows = False,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    rate: session.Rate = None,
    json: session.Json = False,
) -> None:
    """Check a file and say what a run of it would do. Sends nothing."""
    settings = load_settings(environment=environment, merchant_id=merchant, rate_limit=rate)
    with session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows) as csv_file:
        result = _plan(csv_file, settings)
    if json:
        emit(result)
        return
    for name, value in result.items():
        if name != "invalid_lines":
            typer.echo(f"{name.replace('_', ' '):<18}{_shown(name, value)}")
    for invalid in result["invalid_lines"]:
        typer.echo(f"  line {invalid['line']}: {invalid['problem']}")
    if len(result["invalid_lines"]) < result["invalid"]:
        typer.echo(f"  and {result['invalid'] - len(result['invalid_lines']):,} more")


def _plan(csv_file: CsvFile, settings: Settings) -> dict[str, Any]:
    inspection = csv_file.inspect()
    earlier = asyncio.run(_deleted_earlier(csv_file, settings))
    to_send = inspection.valid - (earlier or 0)
    return {
        "source": inspection.source,
        "sha256": inspection.sha256,
        "environment": settings.environment.value,
        "merchant": settings.merchant_id,
        "id_column": inspection.id_column,
        "rows": inspection.rows,
        "valid": inspection.valid,
        "invalid": inspection.invalid,
        "duplicates": inspection.duplicates,
        "deleted_earlier": earlier,
        "to_send": to_send,
        "rate": str(settings.rate_limit),
        "seconds": round(to_send / settings.rate_limit.sustained, 1),
        "invalid_lines": [{"line": line, "problem": problem} for line, problem in inspection.invalid_samples],
    }


async def _deleted_earlier(csv_file: CsvFile, settings: Settings) -> int | None:
    """How many the ledger knows; ``None`` where there is no store to ask."""
    try:
        with session.running_redis(settings) as reachable, readable_errors(redis_url(reachable)):
            async with open_store(reachable) as store:
                return await store.ledger.count_known(
                    (row.customer_id for row in csv_file.rows() if row.reason is None), time.time()
                )
    except UsageError:
        if settings.redis_url is not None:
            raise
        return None


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "unknown (no results store yet)"
    if name == "seconds":
        return duration(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
