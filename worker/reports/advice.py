"""What a person reads about a batch that does not go on."""

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
