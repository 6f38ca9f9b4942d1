"""The steps of a submission that the command line and the HTTP API share: what guards it, and how it begins."""

from datetime import UTC, datetime
from typing import NamedTuple

from kombu.exceptions import OperationalError

from worker.domain.batches import Batch, Description, Environment
from worker.domain.deadlines import parse_moment
from worker.domain.errors import Guard, RefusedError, StoreError, UsageError
from worker.domain.plans import confirms, is_plan_id, plan_id
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import accept
from worker.pipeline.reconcile import Feeder
from worker.store.batches import Batches
from worker.store.holds import Holds


class Taken(NamedTuple):
    """What became of a submission."""

    batch: Batch
    known_by: str | None
    """``file`` or ``reference`` if the batch existed before."""
    fed: bool
    """Whether its first messages were sent, if it runs; else the workers find it when the broker is back."""


def moment(option: str, text: str | None) -> float | None:
    """What an option says of the future, in seconds since the epoch; raises ``UsageError`` if it is none."""
    if text is None:
        return None
    try:
        return parse_moment(text, datetime.now(UTC)).timestamp()
    except ValueError as error:
        raise UsageError(f"{option}: '{text}': {error}") from None


def check_confirmation(description: Description, confirm: str | None, *, asked: bool = False) -> None:
    """Raise ``RefusedError`` for a confirmation that does not fit, or for none in production.

    ``asked``: somebody is asked for the number afterwards, so that none is needed now.
    """
    target, rows = description.target, description.rows
    plan = plan_id(description.sha256, target, description.id_column)
    where, allowed = f"{target.environment.value}: nothing was sent", f"--confirm {rows} or --confirm {plan}"
    if confirm is None:
        if target.environment is Environment.PRODUCTION and not asked:
            raise RefusedError(
                f"{where}; to delete {rows:,} customer{'' if rows == 1 else 's'}, look at the plan, then add {allowed}",
                Guard.CONFIRMATION,
            )
        return
    try:
        fits = confirms(confirm, rows, plan)
    except ValueError as error:
        raise UsageError(f"--confirm: {error}") from None
    if not fits:
        word = confirm.strip()
        wrong = f"{word} was confirmed, but there {'is 1 record' if rows == 1 else f'are {rows:,} records'}"
        if is_plan_id(word):
            wrong = f"{word} is of another file, merchant, environment or ID column: this is {plan}, {rows:,} records"
        raise RefusedError(f"{where}; {wrong}; look at the plan, then {allowed}", Guard.CONFIRMATION)


async def take_in(
    batches: Batches, holds: Holds, feeder: Feeder, csv_file: CsvFile, description: Description, *, again: bool
) -> Taken:
    """Accept a file and send its first messages; raises as ``accept``."""
    accepted = await accept(batches, holds, csv_file, description, again=again)
    batch = await batches.get(accepted.batch_id)
    if batch is None:
        raise StoreError(f"batch {accepted.batch_id} has expired; try again")
    fed = await feed(feeder, batch) if accepted.known_by is None else True
    return Taken(batch, accepted.known_by, fed)


async def feed(feeder: Feeder, batch: Batch) -> bool:
    """Send a batch's first messages, if it runs; ``False`` if the broker takes none now."""
    if not batch.goes_on:
        return True
    try:
        await feeder.feed(batch.id)
    except OperationalError:
        return False
    return True


def repeated(batch: Batch) -> RefusedError:
    """The refusal of a file that became this batch before."""
    return RefusedError(
        f"this file was submitted before: batch {batch.id} ({batch.state.value}); --again submits it once more",
        Guard.REPEAT,
        batch.id,
    )
