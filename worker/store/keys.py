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
REVOKED = "expunge:revoked"
"""Set: the IDs of tokens that were revoked; an attempt with one of another ID is made up."""
SESSION = "expunge:session:"
"""Followed by the digest of what a browser keeps: ID and digest of the token, or role and name, that it stands for."""
SIGNED_OUT = "expunge:signed-out:"
"""Followed by a name: until when their sessions were ended, milliseconds."""
IDENTITIES = "expunge:identities"
"""Hash: digests that stand for people at the identity provider to their names, and back."""
TRIP = "expunge:trip:"
"""Followed by the digest of a state and of what a browser keeps: what its return from the provider is checked with."""
REQUEST = "expunge:request:"
"""Followed by a digest of who asks and of their key: what became of a request to the HTTP API."""
NAMES = "expunge:names"
"""Set: everybody who has or had a token; an attempt with another name may have somebody's data in its place."""
LEDGER = "expunge:ledger:"
"""Followed by period and bucket: hashes from ten bytes of a digest to batch and time."""


def of_batch(batch_id: str, part: str) -> str:
    """A key of a batch: ``meta``, ``ids``, ``shards``, ``holders``, ``tally``, ``out:<shard>``, ``tries:<shard>``.

    ``requests`` names the answers that tell of it; ``purging`` says that it was taken away, and what is to be removed.
    """
    return f"expunge:{{{batch_id}}}:{part}"


def active(target: Target) -> str:
    """Sorted set: the batches of one target that run, urgent ones (0) before bulk (1); its workers look at these."""
    return f"expunge:active:{target.route}"


def workers(target: Target) -> str:
    """Sorted set: a target's worker processes by the time until which they count as alive, milliseconds."""
    return f"expunge:workers:{target.route}"


def reconciler(target: Target) -> str:
    """The lock of the process that reconciles a target's batches."""
    return f"expunge:reconciler:{target.route}"


SEEN = "expunge:seen:"
"""Followed by period and bucket: hashes from ten bytes of an event's digest to the gathering that took it."""
GATHERING = "expunge:gathering:"
"""Followed by a gathering's ID: hash of its lane and how many records it has; with ``:lines``, these."""


def gatherings(target: Target) -> str:
    """Sorted set: a target's gatherings of events that are no batch yet, by when they become one, milliseconds."""
    return f"expunge:gatherings:{target.route}"


def open_gathering(target: Target) -> str:
    """Followed by a lane: the gathering that takes its events now."""
    return f"expunge:gathering-open:{target.route}:"


def dead_letters(target: Target) -> str:
    """Stream: events of one merchant and environment that can never be taken."""
    return f"expunge:dead-letters:{target.owner}"


def callback(target: Target, name: str) -> str:
    """Hash: how far a callback address has been told of a target's batches, and who tells it now."""
    return f"expunge:callback:{target.route}:{name}"


def event_reader(target: Target) -> str:
    """The lock, at the broker, of the process that reads what Celery producers send for a merchant and environment."""
    return f"expunge:event-reader:{target.owner}"


def holds(target: Target) -> str:
    """Hash: the customers on hold of one merchant and environment, to end, beginning and ground."""
    return f"expunge:holds:{target.owner}"


def hold_ends(target: Target) -> str:
    """Sorted set: of these, who has an end, by it, milliseconds."""
    return f"expunge:hold-ends:{target.owner}"


def holds_version(target: Target) -> str:
    """Counts the times at which customers were put on hold; workers look at it with every write."""
    return f"expunge:holds-version:{target.owner}"


def of_file(sha256: str, target: Target) -> str:
    """Names the batch that was made of a file, for one merchant and environment."""
    return f"expunge:file:{target.owner}:{sha256}"


def of_reference(reference: str, target: Target) -> str:
    """Names the batch that was submitted under a reference, for one merchant and environment."""
    return f"expunge:reference:{target.owner}:{reference}"
