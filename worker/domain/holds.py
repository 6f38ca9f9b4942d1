"""Holds (SPEC 1, 6): customers that must not be deleted now, each with its ground."""

from dataclasses import dataclass
from typing import Final

LONGEST_GROUND: Final = 200
_MOST: Final = "at most 200 characters on one line"


@dataclass(frozen=True, slots=True)
class Term:
    """Why a hold stands, and how long."""

    ground: str
    until: float | None = None
    """Seconds since the epoch; ``None``: until it is removed."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One customer of one merchant and environment, on hold."""

    customer_id: str
    term: Term
    since: float
    """Seconds since the epoch, by the store's clock."""


def read_ground(text: str) -> str:
    """The ground without surrounding white space; raises ``ValueError`` that says what a ground is."""
    ground = text.strip()
    if not ground or len(ground) > LONGEST_GROUND or not ground.isprintable():
        raise ValueError(f"a hold needs a ground that explains it, {_MOST}")
    return ground
