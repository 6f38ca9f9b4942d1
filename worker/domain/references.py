"""References name batches (SPEC 5): those that somebody gives, and those of batches that Expunge makes by itself."""

import hashlib
import re
from collections.abc import Iterable

from worker.domain.errors import UsageError

_OURS = re.compile(r"events-[0-9a-z]{13}|held-back-[0-9a-f]{16}")


def of_events(gathering_id: str) -> str:
    """Of the batch that a gathering of events becomes, known before it is one."""
    return f"events-{gathering_id}"


def of_held_back(records: Iterable[tuple[str, int]]) -> str:
    """Stands for exactly these records, each by batch ID and row."""
    named = "\n".join(sorted(f"{batch_id} {row}" for batch_id, row in records))
    return f"held-back-{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def checked(reference: str | None) -> str | None:
    """A reference that somebody gave; raises ``UsageError``.

    Whoever took one of ours would keep the batch that is to have it from ever being made.
    """
    if reference is None:
        return None
    if not reference.isprintable():
        raise UsageError("--reference: must be printable characters on one line; choose another")
    if _OURS.fullmatch(reference):
        raise UsageError(f"--reference: '{reference}' is kept for a batch that is made of it; choose another")
    return reference
