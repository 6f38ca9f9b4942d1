"""Made-up customers."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


def ids(count: int) -> Iterator[str]:
    """IDs as the payments API makes them: ``customer_`` and 32 random hex digits."""
    return (f"customer_{uuid4().hex}" for _ in range(count))


def write_csv(path: Path, rows: int, repeat_every: int = 0) -> None:
    """A file with one column of IDs; of each ``repeat_every`` rows the last repeats the ID of one far above."""
    with path.open("w") as file:
        file.write("customer_id\n")
        customers = _repeating(ids(rows), repeat_every) if repeat_every else ids(rows)
        file.writelines(f"{customer_id}\n" for customer_id in customers)


def _repeating(customers: Iterator[str], every: int) -> Iterator[str]:
    seen: list[str] = []
    for row, customer_id in enumerate(customers):
        if row % every == 0:
            seen.append(customer_id)
        yield seen[len(seen) // 2] if row % every == every - 1 else customer_id
