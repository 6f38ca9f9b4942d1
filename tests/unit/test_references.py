"""References that somebody gives, and those of batches that Expunge makes by itself (SPEC 5)."""

import pytest

from worker.domain import references
from worker.domain.batch_ids import make_batch_id
from worker.domain.errors import UsageError

GATHERING = make_batch_id(1_764_000_000, 5)


@pytest.mark.parametrize(
    "taken", [references.of_events(GATHERING), references.of_held_back([(GATHERING, 1)]), "a\nb", "\x1b[31mred"]
)
def test_what_names_a_batch_of_our_own_or_is_not_printable_is_nobodys_to_give(taken: str) -> None:
    with pytest.raises(UsageError, match="choose another"):
        references.checked(taken)


@pytest.mark.parametrize("given", [None, "events-2026-01-31", "held-back-of-may", "Löschung 4711"])
def test_any_other_is(given: str | None) -> None:
    assert references.checked(given) == given


def test_the_same_records_have_the_same_reference_in_whatever_order_and_others_another() -> None:
    one, two = (GATHERING, 1), (GATHERING, 2)
    assert references.of_held_back([one, two]) == references.of_held_back([two, one])
    assert references.of_held_back([one]) != references.of_held_back([two])
