"""What a person reads, at the command line and on the pages: why a batch does not go on, how long something takes."""

from worker.domain.batches import Batch, StateReason

_ADVICE = {
    StateReason.OPERATOR: "an operator paused it",
    StateReason.CREDENTIALS_REFUSED: "the upstream refuses the credentials (401 or 403); mend EXPUNGE_UPSTREAM_HEADERS",
    StateReason.REPLY_FOR_ANOTHER_CUSTOMER: "the upstream answered for another customer than asked; ask it why",
    StateReason.CIRCUIT_OPEN: "the upstream is away; it is asked again now and then, and then this goes on by itself",
}


def why_paused(batch: Batch) -> str:
    """Why a batch is paused, for a person; of a brake, with the numbers."""
    return str(batch.tripped) if batch.tripped else _ADVICE.get(batch.state_reason or StateReason.OPERATOR, "")


def duration(seconds: float) -> str:
    """A span of time in the two largest units that it has."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"
