"""Names of all keys in Redis. They begin with ``expunge:``; those of a batch carry its ID as hash tag (SPEC 10)."""

BATCHES = "expunge:batches"
"""Sorted set: batch IDs by their time of creation, milliseconds."""
ACTIVE = "expunge:active"
"""Set: batches that run; the reconciler looks at these."""
WORKERS = "expunge:workers"
"""Sorted set: worker processes by the time until which they count as alive, milliseconds."""
RECONCILER = "expunge:reconciler"
"""The elected reconciler's lock."""
DIGEST_KEY = "expunge:digest-key"
"""The key of the digests, where none is set."""
LEDGER = "expunge:ledger:"
"""Followed by period and bucket: hashes from ten bytes of a digest to batch and time."""


def of_batch(batch_id: str, part: str) -> str:
    """A key of a batch: ``meta``, ``ids``, ``shards``, ``holders``, ``tally``, ``out:<shard>``, ``tries:<shard>``."""
    return f"expunge:{{{batch_id}}}:{part}"


def of_file(sha256: str, environment: str, merchant: str) -> str:
    """Names the batch that was made of a file, for one target."""
    return f"expunge:file:{environment}:{merchant}:{sha256}"


def of_reference(reference: str, environment: str, merchant: str) -> str:
    """Names the batch that was submitted under a reference, for one target."""
    return f"expunge:reference:{environment}:{merchant}:{reference}"
