"""Who may do what (SPEC 6 and 7): roles, tokens, and the approval of a batch by somebody else than its submitter."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from worker.domain.batches import Batch, BatchState, Environment
from worker.domain.errors import Guard, RefusedError

WORKER = "worker"
"""Stands for what a batch does by itself; nobody can have this name."""
EVENTS = "events"
"""Stands for who submitted a rolling batch: the systems that sent its events; nobody can have this name either."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_ID = re.compile(r"[0-9a-f]{8}")
_TOKEN = re.compile(rf"expunge_(?P<id>{_ID.pattern})_[A-Za-z0-9_-]{{43}}")


class Role(StrEnum):
    """What somebody is there for."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    APPROVER = "approver"
    ADMIN = "admin"


class Act(StrEnum):
    """What can be asked for."""

    LOOK = "look"
    SUBMIT = "submit"
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    PURGE = "purge"
    HOLD = "hold"
    RELEASE = "release"
    TOKEN = "token"  # noqa: S105 - the command


class Reach(StrEnum):
    """Whose batches an act may concern."""

    ANY = "any"
    OWN = "own"
    OTHERS = "others'"
    WAITING = "others' waiting"
    """Those of others, while they await approval."""


_CONTROL = {Role.SUBMITTER: Reach.OWN, Role.ADMIN: Reach.ANY}
MAY: Mapping[Act, Mapping[Role, Reach]] = {
    Act.LOOK: dict.fromkeys(Role, Reach.ANY),
    Act.SUBMIT: {Role.SUBMITTER: Reach.ANY, Role.ADMIN: Reach.ANY},
    Act.APPROVE: {Role.APPROVER: Reach.OTHERS, Role.ADMIN: Reach.OTHERS},
    Act.PAUSE: _CONTROL,
    Act.RESUME: _CONTROL,
    Act.CANCEL: _CONTROL | {Role.APPROVER: Reach.WAITING},  # who may approve may refuse
    Act.PURGE: {Role.ADMIN: Reach.ANY},
    Act.HOLD: {Role.SUBMITTER: Reach.ANY, Role.APPROVER: Reach.ANY, Role.ADMIN: Reach.ANY},
    Act.RELEASE: {Role.APPROVER: Reach.ANY, Role.ADMIN: Reach.ANY},
    Act.TOKEN: {Role.ADMIN: Reach.ANY},
}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who showed a token, or signed in by an identity provider."""

    name: str
    role: Role

    def check(self, act: Act, batch: Batch | None = None) -> None:
        """Raises ``RefusedError`` if the act, on this batch, is not theirs; a name is one person with any token."""
        reach, allowed = MAY[act].get(self.role), " or ".join(MAY[act])
        if reach is None:
            raise RefusedError(f"{self.name} is {self.role}; {act} is for {allowed}", Guard.ROLE)
        if reach is Reach.ANY:
            return
        if batch is None:
            raise ValueError(f"whether {self.name} may {act} depends on the batch")
        submitter = batch.description.submitted_by
        whose = f"batch {batch.id} was submitted by {submitter or 'somebody without a name'}"
        if reach in (Reach.OTHERS, Reach.WAITING) and submitter == self.name:
            raise RefusedError(f"{whose}, so somebody else must {act} it: {allowed}", Guard.APPROVAL)
        if reach is Reach.OWN and submitter != self.name:
            raise RefusedError(
                f"{whose}; {self.name} as {self.role} may {act} only own batches, an admin any", Guard.ROLE
            )
        if reach is Reach.WAITING and batch.state is not BatchState.AWAITING_APPROVAL:
            raise RefusedError(
                f"batch {batch.id} is {batch.state.value}; {self.name} as {self.role} may {act} only what awaits "
                "approval, its submitter or an admin any",
                Guard.ROLE,
            )


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: not itself, only its digest."""

    id: str
    name: str
    role: Role
    created_at: float
    """Seconds since the epoch, by the store's clock."""
    digest: str = field(repr=False)

    def fits(self, text: str) -> bool:
        """Whether this is the token, in a time that does not tell how near it is."""
        return hmac.compare_digest(self.digest, digest_of(text))


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who has shown who they are."""

    person: Person
    counted_as: str
    """What their requests are counted by."""

    @classmethod
    def by(cls, token: Token) -> Self:
        """Whoever has this token."""
        return cls(Person(token.name, token.role), token.id)


def make_token(token_id: str, secret: str) -> str:
    """A token from eight hex digits that name it, and 32 random bytes as URL-safe base 64."""
    return f"expunge_{token_id}_{secret}"


def id_of(text: str) -> str | None:
    """What names a token, or ``None`` if the text is none."""
    match = _TOKEN.fullmatch(text)
    return match["id"] if match else None


def is_id(text: str) -> bool:
    """Whether this can name a token."""
    return _ID.fullmatch(text) is not None


def digest_of(text: str) -> str:
    """SHA-256 in hex: no slow hash is needed for 256 random bits."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_name(text: str) -> bool:
    """Whether somebody can be called so: lower case, so that nobody has two names that look alike."""
    return _NAME.fullmatch(text) is not None and text not in (WORKER, EVENTS)


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """Which batches wait for somebody other than their submitter (SPEC 6)."""

    above: int | None = None
    """More records than these; ``None``: whatever their number."""
    in_production: bool = False
    """All of production."""

    def asks(self, rows: int, environment: Environment) -> bool:
        """Whether such a batch must be approved."""
        large = self.above is not None and rows > self.above
        return large or (self.in_production and environment is Environment.PRODUCTION)


NO_APPROVAL = ApprovalRule()
"""Of rehearsals, where nobody is deleted."""
