"""The audit trail: who did what to which batch, and when. No customer is in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Deed(StrEnum):
    """What was done; the Lua scripts write these words."""

    SUBMITTED = "submitted"
    APPROVED = "approved"
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    PURGED = "purged"
    HELD = "held"
    RELEASED = "released"
    REFUSED = "refused"
    SIGNED_IN = "signed_in"
    SIGNED_OUT = "signed_out"
    UNTOLD = "untold"
    DEAD_LETTERS_REMOVED = "dead_letters_removed"
    TOKEN_ADDED = "token_added"  # noqa: S105 - a deed
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - a deed


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail."""

    at: float
    """Seconds since the epoch, by the store's clock."""
    actor: str | None
    """A name, ``worker`` for what a batch does by itself, ``None`` for somebody who has none."""
    deed: Deed
    batch_id: str | None
    detail: Mapping[str, str]
