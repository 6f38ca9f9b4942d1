"""Made-up customers."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


def ids(count: int) -> Iterator[str]:
    """IDs as the payments API makes them: ``customer_`` and 32 random hex digits."""
    return (f"customer_{uuid4().hex}" for _ in range(count))


def write_csv(path: Path, count: int) -> None:
    """A file with one column of IDs."""
    with path.open("w") as file:
        file.write("customer_id\n")
        file.writelines(f"{customer_id}\n" for customer_id in ids(count))
