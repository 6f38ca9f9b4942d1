"""Which rows repeat an earlier one: exact, in about 8 bytes a row when few of them do (SPEC 8)."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

_BUCKETS = 64  # so that only a sixty-fourth of the hashes is ever a list of Python ints, for sorting


class Candidates:
    """The 64-bit hashes of IDs that may occur more than once, 8 bytes each."""

    def __init__(self, buckets: "tuple[array[int], ...]" = ()) -> None:
        self._buckets = buckets

    def __bool__(self) -> bool:
        return any(self._buckets)

    def __contains__(self, hashed: int) -> bool:
        if not self._buckets:
            return False
        bucket = self._buckets[hashed % _BUCKETS]
        at = bisect_left(bucket, hashed)
        return at < len(bucket) and bucket[at] == hashed


class Sieve:
    """Narrows the IDs down to those that may occur more than once."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]

    def add(self, customer_id: str) -> None:
        """Note one more ID."""
        hashed = hash(customer_id)
        self._buckets[hashed % _BUCKETS].append(hashed)

    def repeated(self) -> Candidates:
        """What was noted more than once; two IDs of one hash can only add one too many here."""
        return Candidates(tuple(_repeated(bucket) for bucket in self._buckets))


def _repeated(bucket: "array[int]") -> "array[int]":
    return array("q", (earlier for earlier, later in pairwise(sorted(bucket)) if earlier == later))


class Duplicates:
    """Row numbers of duplicates and of their first rows, decided by the IDs themselves."""

    def __init__(self, candidates: Candidates | None = None) -> None:
        self._candidates = candidates or Candidates()
        self._first_seen: dict[str, int] = {}
        self._rows = array("q")
        self._first_rows = array("q")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """``(row, first row)`` of each duplicate, in the order of rows."""
        return zip(self._rows, self._first_rows, strict=True)

    def see(self, number: int, customer_id: str) -> None:
        """Take the next row with an acceptable ID."""
        if hash(customer_id) not in self._candidates:
            return
        first = self._first_seen.setdefault(customer_id, number)
        if first != number:
            self._rows.append(number)
            self._first_rows.append(first)

    def settle(self) -> None:
        """Let go of the IDs: every row has been seen."""
        self._first_seen = {}
        self._candidates = Candidates()
