"""A plan's ID is bound to what would be deleted, and a confirmation fits one plan only."""

import pytest

from worker.domain.batches import Environment, Target
from worker.domain.plans import confirms, plan_id

SHA, TARGET = "a" * 64, Target(Environment.PRODUCTION, "m1")
PLAN = plan_id(SHA, TARGET, "customer_id")


def test_the_same_file_for_the_same_customers_has_the_same_plan_anywhere() -> None:
    assert plan_id(SHA, Target(Environment.PRODUCTION, "m1"), "customer_id") == PLAN


@pytest.mark.parametrize(
    "other",
    [
        plan_id("b" * 64, TARGET, "customer_id"),
        plan_id(SHA, Target(Environment.SANDBOX, "m1"), "customer_id"),
        plan_id(SHA, Target(Environment.PRODUCTION, "m2"), "customer_id"),
        plan_id(SHA, TARGET, "parent_id"),
        plan_id(SHA, Target(Environment.PRODUCTION, "m1\0customer_id"), ""),
        plan_id(SHA, Target(Environment.PRODUCTION, "m1c"), "ustomer_id"),
    ],
)
def test_another_file_merchant_environment_or_column_has_another_plan(other: str) -> None:
    assert other != PLAN
    assert not confirms(other, 1188, PLAN)


@pytest.mark.parametrize("text", ["1188", " 1188 ", "01188", PLAN])
def test_the_number_of_records_or_the_plan_confirms(text: str) -> None:
    assert confirms(text, 1188, PLAN)


@pytest.mark.parametrize("text", ["1187", "0", "11880"])
def test_another_number_does_not(text: str) -> None:
    assert not confirms(text, 1188, PLAN)


@pytest.mark.parametrize("text", ["", "yes", "-1188", "1,188", "plan-", PLAN[:-1], PLAN.upper(), "1188.0", "\u0661"])
def test_what_is_neither_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="neither a number of records nor a plan's ID"):
        confirms(text, 1188, PLAN)
