"""Who somebody is to an identity provider (OpenID Connect): what they are called here, and which role they have."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from worker.domain.people import Role, is_name

SUBJECT = "sub"
"""The claim that is unique and never another's (OpenID Connect Core, section 5.7)."""
_FORM = "must be a claim and its values, such as 'realm_access.roles: viewer=expunge-viewers; admin=expunge-admins'"


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Which values of a claim mean which role."""

    claim: str
    values: tuple[tuple[str, Role], ...]
    """In the order in which they are looked for."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``CLAIM: ROLE=VALUE; ROLE=VALUE``; raises ``ValueError``. A claim's name may have colons and dots in it."""
        first, equals, rest = text.partition("=")
        claim, colon, role = first.rpartition(":")
        if not (equals and colon and claim.strip()):
            raise ValueError(_FORM)
        values: dict[str, Role] = {}
        for pair in f"{role}={rest}".split(";"):
            if pair.strip():
                word, _, value = map(str.strip, pair.partition("="))
                if word not in list(Role) or not value:
                    raise ValueError(f"{_FORM}; the roles are {', '.join(Role)}")
                if value in values:
                    raise ValueError(f"has '{value}' twice; one value means one role")
                values[value] = Role(word)
        return cls(claim.strip(), tuple(values.items()))

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """The role that is named first among those that the claims give."""
        found = find_claim(claims, self.claim)
        had = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        return next((role for value, role in self.values if value in had), None)

    def __str__(self) -> str:
        return f"{self.claim}: {'; '.join(f'{role}={value}' for value, role in self.values)}"


@dataclass(frozen=True, slots=True)
class SignOn:
    """How people sign in by an identity provider, as it is set."""

    issuer: str
    client_id: str
    client_secret: str | None = field(repr=False)
    roles: RoleRule
    name_claim: str
    scopes: str
    web_url: str
    """Where the pages are for a browser: scheme, host and port."""

    @property
    def host(self) -> str:
        """What the provider is called on pages."""
        return urlsplit(self.issuer).netloc

    @property
    def return_url(self) -> str:
        """Where the provider sends a browser back to."""
        return f"{self.web_url}/session/provider/return"

    @property
    def mark(self) -> str:
        """Stands for all that decides who is who: when it changes, sessions end."""
        return _digest(self.issuer, self.client_id, str(self.roles), self.name_claim)[:16]

    def subject_of(self, claims: Mapping[str, Any]) -> str:
        """Stands for one person at this provider, whatever they are called."""
        return _digest(self.issuer, claims[SUBJECT])

    def name_of(self, claims: Mapping[str, Any]) -> str | None:
        """What somebody is called here; ``None`` if their claims have no name that can be used.

        A subject that cannot be a name gets one made of its digest. An address of mail counts if it was verified.
        """
        found = find_claim(claims, self.name_claim)
        if self.name_claim == "email" and claims.get("email_verified") is not True:
            return None
        if isinstance(found, str) and is_name(found.lower()):
            return found.lower()
        return f"sub-{self.subject_of(claims)[:16]}" if self.name_claim == SUBJECT else None


def find_claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, in which dots lead into objects unless they belong to it; ``None`` if there is none."""
    if path in claims:
        return claims[path]
    for at, letter in enumerate(path):
        inner = claims.get(path[:at]) if letter == "." else None
        if isinstance(inner, Mapping) and (found := find_claim(inner, path[at + 1 :])) is not None:
            return found
    return None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
