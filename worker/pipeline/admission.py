"""Who asks, and what is noted when they are refused (docs/safety.md): the same at the command line and over HTTP."""

from dataclasses import replace

from worker.domain.batch_ids import is_batch_id
from worker.domain.batches import Description, Target
from worker.domain.errors import Guard, RefusedError
from worker.domain.people import Act, Person
from worker.store.audit import Audit
from worker.store.batches import Batches
from worker.store.tokens import Tokens

FIRST_TOKEN = "expunge token add NAME --role admin"  # noqa: S105 - a command


async def person_of(tokens: Tokens, text: str) -> Person | None:
    """Whose token this is; ``None`` if it is none, or was revoked."""
    token = await tokens.find(text)
    return Person(token.name, token.role) if token is not None else None


def signed(description: Description, name: str | None) -> Description:
    """A submission with who made it. Raises ``RefusedError`` when it needs approval and nobody has a name."""
    if name is not None:
        return replace(description, submitted_by=name)
    if description.needs_approval:
        raise RefusedError(
            "this batch needs the approval of somebody other than you, so that both of you need tokens; "
            f"the first is made by: {FIRST_TOKEN}",
            Guard.APPROVAL,
        )
    return description


async def note_refusal(
    audit: Audit,
    batches: Batches,
    refusal: RefusedError,
    act: Act,
    target: Target,
    *,
    person: Person | None,
    claimed: str | None = None,
    batch_id: str | None = None,
) -> None:
    """Note in the audit trail what a guard refused; of a batch only if there is one of that ID.

    What else was given as an ID may be a customer. The ``target`` is what is set where it was asked.
    """
    batch_id = refusal.batch_id or batch_id
    known = await batches.get(batch_id) if batch_id and is_batch_id(batch_id) else None
    await audit.refused(
        refusal.guard,
        act,
        target,
        actor=person.name if person else None,
        claimed=claimed,
        batch_id=known.id if known else None,
    )
