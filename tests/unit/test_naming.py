"""Whom a file or a list names to be put on hold, and by which ground and end each."""

import time
from pathlib import Path

import pytest

from worker.domain.customer_ids import IdRule
from worker.domain.errors import InputError, UsageError
from worker.domain.holds import Term
from worker.intake.csv_file import CsvFile
from worker.pipeline.naming import Customers, in_file, listed, terms

FAR = 4_070_908_799.999  # the end of 2098


def named(tmp_path: Path, content: str, column: str = "customer_id") -> Customers:
    path = tmp_path / "held.csv"
    path.write_text(content)
    with CsvFile.open(path, rule=IdRule.of(), column=column) as file:
        return in_file(file)


def test_a_row_s_ground_and_end_go_ahead_of_the_options(tmp_path: Path) -> None:
    rows = "a,tax audit,2098-12-31\nb,,\nc, tax audit ,\nd,,2098-12-31\n"
    customers = named(tmp_path, "customer_id,Ground,until\n" + rows)
    assert terms(customers, "litigation", None) == [
        Term("tax audit", FAR),
        Term("litigation"),
        Term("tax audit"),
        Term("litigation", FAR),
    ]
    assert terms(customers, "litigation", "2098-12-31")[1:3] == [Term("litigation", FAR), Term("tax audit", FAR)]


def test_without_such_columns_the_options_are_those_of_all(tmp_path: Path) -> None:
    customers = named(tmp_path, "customer_id,name\na,x\nb,y\na,z\n")
    assert customers.places == ["row 1 of held.csv", "row 2 of held.csv"]
    assert terms(customers, " litigation ", None) == [Term("litigation")] * 2
    assert terms(listed(["a", " b", "a"], IdRule.of()), "litigation", "2098-12-31") == [Term("litigation", FAR)] * 2


def test_the_same_span_in_many_rows_is_one_moment(tmp_path: Path) -> None:
    made = terms(named(tmp_path, "customer_id,until\na,+30d\nb,+30d\n"), "litigation", None)
    assert made[0] == made[1]
    assert made[0].until is not None
    assert made[0].until > time.time() + 29 * 86_400


@pytest.mark.parametrize(
    ("rows", "ground", "says"),
    [
        ("a,,\nb,x,\n", None, "row 1 of held.csv has no ground: name one with --ground, or in a column ground"),
        ("a,x,\nb,,\n", None, "row 2 of held.csv has no ground"),
        (f"a,{'x' * 201},\n", "y", "row 1 of held.csv: ground: a hold needs a ground"),
        ("a,x,\nb,x,soon\n", None, "row 2 of held.csv: until: 'soon': write a day"),
        ("a,x,2020-01-01\n", None, "row 1 of held.csv: until: '2020-01-01': "),
        ("a,x,\n", " ", "--ground: a hold needs a ground"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_number(
    tmp_path: Path, rows: str, ground: str | None, says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        terms(named(tmp_path, "customer_id,ground,until\n" + rows), ground, None)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("customer_id,ground\na,x\nb,x\na,y\n", "names in row 3 the customer of row 1 with another ground or end"),
        ("customer_id,ground,GROUND\na,x,y\n", "has 2 columns named 'ground'"),
        ("customer_id,ground\na b,x\n", "has invalid IDs: line 2 contains a space"),
    ],
)
def test_a_file_that_leaves_a_doubt_names_nobody(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        named(tmp_path, content)


def test_a_column_of_ids_is_no_ground_whatever_its_name(tmp_path: Path) -> None:
    customers = named(tmp_path, "ground,until\na,2098-12-31\n", "ground")
    assert terms(customers, "litigation", None) == [Term("litigation", FAR)]
