"""Names of all keys in Redis. They begin with ``expunge:``; those of a batch carry its ID as hash tag (SPEC 10)."""

from worker.domain.batches import Target

BATCHES = "expunge:batches"
"""Sorted set: batch IDs by their time of creation, milliseconds."""
DIGEST_KEY = "expunge:digest-key"
"""The key of the digests, where none is set."""
AUDIT = "expunge:audit"
"""Stream: who did what to which batch."""
TOKENS = "expunge:tokens"
"""Hash: a token's ID to its role, its time of creation, its digest, its name."""
LEDGER = "expunge:ledger:"
"""Followed by period and bucket: hashes from ten bytes of a digest to batch and time."""


def of_batch(batch_id: str, part: str) -> str:
    """A key of a batch: ``meta``, ``ids``, ``shards``, ``holders``, ``tally``, ``out:<shard>``, ``tries:<shard>``."""
    return f"expunge:{{{batch_id}}}:{part}"


def active(target: Target) -> str:
    """Sorted set: the batches of one target that run, urgent ones (0) before bulk (1); its workers look at these."""
    return f"expunge:active:{target.environment}:{target.merchant}"


def workers(target: Target) -> str:
    """Sorted set: a target's worker processes by the time until which they count as alive, milliseconds."""
    return f"expunge:workers:{target.environment}:{target.merchant}"


def reconciler(target: Target) -> str:
    """The lock of the process that reconciles a target's batches."""
    return f"expunge:reconciler:{target.environment}:{target.merchant}"


def of_file(sha256: str, target: Target) -> str:
    """Names the batch that was made of a file, for one target."""
    return f"expunge:file:{target.environment}:{target.merchant}:{sha256}"


def of_reference(reference: str, target: Target) -> str:
    """Names the batch that was submitted under a reference, for one target."""
    return f"expunge:reference:{target.environment}:{target.merchant}:{reference}"
