"""Who somebody is by the claims of an identity provider."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.identities import RoleRule, SignOn, find_claim
from worker.domain.people import Role, is_name

TEXT = st.text("abvAB.@-|_ \n\u212a\u0430", max_size=70)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | st.just("v"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def sign_on(roles: str = "roles: viewer=v", name_claim: str = "sub", issuer: str = "https://id") -> SignOn:
    return SignOn(issuer, "expunge", None, RoleRule.parse(roles), name_claim, "openid", "https://expunge")


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("roles", {"roles": "x"}),
        ("realm_access.roles", {"realm_access": {"roles": "x"}}),
        ("resource_access.my.client.roles", {"resource_access": {"my.client": {"roles": "x"}}}),
        ("https://expunge.example/roles", {"https://expunge.example/roles": "x"}),
        ("cognito:groups", {"cognito:groups": "x"}),
        ("a.b", {"a": {"c": 1}, "a.b": "x"}),
        ("a.b.c", {"a": {"b": 1}, "a.b": {"c": "x"}}),
    ],
)
def test_a_claim_is_found_by_its_path(path: str, claims: dict[str, Any]) -> None:
    assert find_claim(claims, path) == "x"
    assert RoleRule.parse(f"{path}: admin=x").role_of(claims) is Role.ADMIN


@pytest.mark.parametrize("claims", [{}, {"a": "b"}, {"a": ["b"]}, {"a": None}, {"a": {"c": "x"}}])
def test_a_claim_that_is_not_there_is_not_found(claims: dict[str, Any]) -> None:
    assert find_claim(claims, "a.b") is None


def test_a_value_may_hold_colons_spaces_commas_and_equals_signs() -> None:
    rule = RoleRule.parse(" groups : admin=CN=Expunge Admins,DC=x ; viewer = a:b ;")
    assert rule == RoleRule("groups", (("CN=Expunge Admins,DC=x", Role.ADMIN), ("a:b", Role.VIEWER)))
    assert RoleRule.parse(str(rule)) == rule


@given(st.dictionaries(st.sampled_from(["roles", "sub", "email", "a", "a.b"]), VALUES))
def test_whatever_the_claims_a_name_is_one_and_a_role_is_meant(claims: dict[str, Any]) -> None:
    claims["sub"] = str(claims.get("sub"))
    for claim in ("sub", "email", "a.b"):
        name = sign_on(name_claim=claim).name_of(claims)
        assert name is None or is_name(name)
    had = claims.get("roles")
    role = sign_on().roles.role_of(claims)
    assert (role is Role.VIEWER) == (had == "v" or (isinstance(had, list) and "v" in had))


def test_a_subject_is_one_person_of_one_provider() -> None:
    claims = {"sub": "a"}
    assert sign_on().subject_of(claims) != sign_on(issuer="https://other").subject_of(claims)
    assert sign_on().subject_of(claims) == sign_on("roles: admin=a", "email").subject_of(claims)


def test_subjects_that_differ_by_capitals_alone_are_two_people() -> None:
    one, other = sign_on().subject_of({"sub": "Ab"}), sign_on().subject_of({"sub": "aB"})
    assert one != other
