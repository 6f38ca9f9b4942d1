"""What is set for the batches that are made now."""

from dataclasses import dataclass

from worker.domain.batches import Target
from worker.domain.brakes import USUAL, Brakes
from worker.domain.customer_ids import USUAL_IDS, IdRule
from worker.domain.people import ApprovalRule


@dataclass(frozen=True, slots=True)
class Rules:
    """Under what a file becomes a batch."""

    target: Target
    shard_size: int
    """The most records that a shard may hold."""
    approval: ApprovalRule
    brakes: Brakes = USUAL
    ids: IdRule = USUAL_IDS
    """Which are accepted."""
    max_rows: int = 1_000_000
