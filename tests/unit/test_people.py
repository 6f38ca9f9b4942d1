"""Who may do what: the table of roles, approvals by somebody else, and tokens that are kept as digests only."""

import secrets

import pytest

from tests.conftest import describe
from worker.domain.batches import Batch, BatchState, Environment, Tally
from worker.domain.errors import Guard, RefusedError
from worker.domain.people import (
    EVENTS,
    MAY,
    WORKER,
    Act,
    ApprovalRule,
    Person,
    Reach,
    Role,
    Token,
    digest_of,
    id_of,
    is_name,
    make_token,
)

PRODUCTION, SANDBOX = Environment.PRODUCTION, Environment.SANDBOX


def batch_of(submitter: str | None, state: BatchState = BatchState.AWAITING_APPROVAL) -> Batch:
    description = describe(["c1"], submitted_by=submitter)
    return Batch("b1", description, state, None, Tally(1, {}), 0.0)


def refused_by(person: Person, act: Act, submitter: str | None) -> Guard | None:
    try:
        person.check(act, batch_of(submitter))
    except RefusedError as refusal:
        return refusal.guard
    return None


@pytest.mark.parametrize(
    ("role", "own", "others"),
    [
        (Role.VIEWER, {Act.LOOK}, {Act.LOOK}),
        (
            Role.SUBMITTER,
            {Act.LOOK, Act.SUBMIT, Act.PAUSE, Act.RESUME, Act.CANCEL, Act.HOLD},
            {Act.LOOK, Act.SUBMIT, Act.HOLD},
        ),
        (Role.APPROVER, {Act.LOOK, Act.HOLD, Act.RELEASE}, {Act.LOOK, Act.APPROVE, Act.CANCEL, Act.HOLD, Act.RELEASE}),
        (Role.ADMIN, set(Act) - {Act.APPROVE}, set(Act)),
    ],
)
def test_a_role_may_do_what_the_table_says_and_nothing_else(role: Role, own: set[Act], others: set[Act]) -> None:
    anna = Person("anna", role)
    assert {act for act in Act if refused_by(anna, act, "anna") is None} == own
    assert {act for act in Act if refused_by(anna, act, "ben") is None} == others
    assert {act for act in Act if refused_by(anna, act, None) is None} == others


def test_every_act_has_its_row_and_an_admin() -> None:
    assert set(MAY) == set(Act)
    assert all(Role.ADMIN in roles for roles in MAY.values())


@pytest.mark.parametrize("role", [Role.APPROVER, Role.ADMIN])
def test_nobody_approves_what_they_submitted_with_whatever_token(role: Role) -> None:
    assert refused_by(Person("anna", role), Act.APPROVE, "anna") is Guard.APPROVAL
    assert refused_by(Person("ben", role), Act.APPROVE, "anna") is None


def test_a_refusal_names_what_stands_and_who_would_be_allowed() -> None:
    with pytest.raises(RefusedError, match=r"b1 was submitted by anna.*somebody else.*approver or admin"):
        Person("anna", Role.ADMIN).check(Act.APPROVE, batch_of("anna"))
    with pytest.raises(RefusedError, match=r"anna is viewer; pause is for submitter or admin"):
        Person("anna", Role.VIEWER).check(Act.PAUSE, batch_of("anna"))
    with pytest.raises(RefusedError, match=r"b1 was submitted by ben; anna as submitter may cancel only own batches"):
        Person("anna", Role.SUBMITTER).check(Act.CANCEL, batch_of("ben"))


@pytest.mark.parametrize("state", [state for state in BatchState if state is not BatchState.AWAITING_APPROVAL])
def test_an_approver_cancels_nothing_but_what_awaits_approval(state: BatchState) -> None:
    with pytest.raises(
        RefusedError, match=rf"b1 is {state.value}; ben as approver may cancel only what awaits"
    ) as says:
        Person("ben", Role.APPROVER).check(Act.CANCEL, batch_of("anna", state))
    assert says.value.guard is Guard.ROLE
    Person("ada", Role.ADMIN).check(Act.CANCEL, batch_of("anna", state))


def test_what_depends_on_the_batch_is_not_allowed_without_one() -> None:
    with pytest.raises(ValueError, match="depends on the batch"):
        Person("anna", Role.ADMIN).check(Act.APPROVE)


def test_only_an_approval_reaches_nothing_but_the_batches_of_others() -> None:
    assert {act for act, roles in MAY.items() if Reach.OTHERS in roles.values()} == {Act.APPROVE}


@pytest.mark.parametrize(
    ("rule", "rows", "environment", "asks"),
    [
        (ApprovalRule(), 1_000_000, PRODUCTION, False),
        (ApprovalRule(above=100), 100, PRODUCTION, False),
        (ApprovalRule(above=100), 101, SANDBOX, True),
        (ApprovalRule(above=0), 1, SANDBOX, True),
        (ApprovalRule(in_production=True), 1, PRODUCTION, True),
        (ApprovalRule(in_production=True), 1_000_000, SANDBOX, False),
        (ApprovalRule(above=100, in_production=True), 101, SANDBOX, True),
    ],
)
def test_approval_is_asked_above_a_size_or_in_production(
    rule: ApprovalRule, rows: int, environment: Environment, asks: bool
) -> None:
    assert rule.asks(rows, environment) is asks


@pytest.mark.parametrize("name", ["anna", "a", "anna.b-c_d@example.com", "7", "a" * 64])
def test_a_name_may_be(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "Anna", "anna ", "an na", "änna", "\u0430nna", "-anna", "a" * 65, "anna\n", WORKER, EVENTS]
)
def test_a_name_may_not_be(name: str) -> None:
    """Least of all one that looks like another's."""
    assert not is_name(name)


def test_a_token_is_known_by_its_digest_and_its_digest_is_not_shown() -> None:
    text = make_token(secrets.token_hex(4), secrets.token_urlsafe(32))
    token = Token(id_of(text) or "", "anna", Role.VIEWER, 0.0, digest_of(text))
    assert token.fits(text)
    assert not token.fits(text[:-1] + ("A" if text[-1] != "A" else "B"))
    assert token.digest not in repr(token)
    assert text.split("_", 2)[2] not in repr(token)


@pytest.mark.parametrize(
    "text",
    ["", "expunge_", "expunge_12345678_", "anna", "expunge_1234567g_" + "A" * 43, "expunge_12345678_" + "A" * 44],
)
def test_what_is_no_token_has_no_id(text: str) -> None:
    assert id_of(text) is None
