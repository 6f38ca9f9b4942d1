"""Whom somebody names to be put on hold or released, each once: one ID, a list of them, or a CSV file."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError, UsageError
from worker.domain.holds import Term, read_ground
from worker.intake.csv_file import CsvFile, Inspection
from worker.intake.problems import problem_of
from worker.pipeline.submission import moment

MOST: Final = 100_000
"""Customers in one atomic step, during which Redis does nothing else."""
_NAMED = 5  # of what is wrong, on one line


class Said(NamedTuple):
    """What a file says of one hold, beside whose it is; empty where it says nothing."""

    ground: str = ""
    until: str = ""


class Customers(NamedTuple):
    """Those who are named."""

    ids: list[str]
    places: list[str]
    """Where the user finds each of them."""
    said: list[Said]
    """Of each."""


def one(customer_id: str, rule: IdRule) -> Customers:
    """A single customer; raises ``UsageError`` when the ID is wrong."""
    if not rule.accepts(customer_id):
        raise UsageError(f"the ID is not acceptable: {problem_of(customer_id)}; nothing was done")
    return Customers([customer_id], ["the customer"], [Said()])


def listed(customer_ids: Sequence[str], rule: IdRule) -> Customers:
    """Those of a list; raises ``UsageError`` when any ID is wrong, which is named by its place."""
    ids = list(dict.fromkeys(each.strip() for each in customer_ids))
    places = [f"the {at}. ID" for at in range(1, len(ids) + 1)]
    wrong = [f"{place} {problem_of(each)}" for place, each in zip(places, ids, strict=True) if not rule.accepts(each)]
    if wrong:
        raise UsageError(f"{some(wrong, len(wrong))}; nothing was done")
    return Customers(ids, places, [Said()] * len(ids))


def in_file(csv_file: CsvFile) -> Customers:
    """Those of a file, whose columns ``ground`` and ``until`` say something of each hold if they are there.

    Raises ``InputError`` when any ID is wrong, or a customer is named twice and not in the same way.
    """
    inspection = csv_file.inspect()
    _check(inspection)
    columns = [_column(csv_file, name) for name in Said._fields]
    ids, places, said, at_row = list[str](), list[str](), list[Said](), dict[int, Said]()
    for row, cells in zip(csv_file.rows(), csv_file.cells(), strict=True):
        says = Said(*("" if at is None else cells[at].strip() for at in columns))
        if row.first_row is not None:
            if says != at_row[row.first_row]:
                problem = f"names in row {row.number} the customer of row {row.first_row} with another ground or end"
                raise InputError(inspection.source, f"{problem}; nothing was done")
            continue
        at_row[row.number] = says
        ids.append(row.customer_id)
        places.append(f"row {row.number} of {inspection.source}")
        said.append(says)
    return Customers(ids, places, said)


def _check(inspection: Inspection) -> None:
    if inspection.invalid:
        problems = [f"line {line} {problem}" for line, problem in inspection.invalid_samples]
        raise InputError(inspection.source, f"has invalid IDs: {some(problems, inspection.invalid)}; nothing was done")
    if inspection.valid > MOST:
        raise InputError(inspection.source, f"has more than {MOST:,} customers: split it; nothing was done")


def _column(csv_file: CsvFile, name: str) -> int | None:
    found = [
        at
        for at, column in enumerate(csv_file.columns)
        if column.strip().casefold() == name and column != csv_file.id_column
    ]
    if len(found) > 1:
        raise InputError(
            csv_file.inspect().source, f"has {len(found)} columns named '{name}': rename all but one; nothing was done"
        )
    return found[0] if found else None


def terms(customers: Customers, ground: str | None, until: str | None) -> list[Term]:
    """By which each of them is on hold: what the file says of it, else these; raises ``UsageError``."""
    usual = None if ground is None else _ground("--ground", ground)
    end, made = moment("--until", until), dict[Said, Term]()
    for said, place in zip(customers.said, customers.places, strict=True):
        if said not in made:
            why = _ground(f"{place}: ground", said.ground) if said.ground else usual
            if why is None:
                raise UsageError(f"{place} has no ground: name one with --ground, or in a column ground")
            made[said] = Term(why, moment(f"{place}: until", said.until) if said.until else end)
    return [made[said] for said in customers.said]


def _ground(where: str, text: str) -> str:
    try:
        return read_ground(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def some(parts: Sequence[str], count: int) -> str:
    """The first few, and how many of all ``count`` are left out."""
    left = count - _NAMED
    return ", ".join(parts[:_NAMED]) + (f" and {left:,} more" if left > 0 else "")
