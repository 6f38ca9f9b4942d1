"""Who is at the command line, and whether what they ask for is theirs to ask (docs/safety.md)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from worker.cli import session
from worker.domain.batch_ids import is_batch_id
from worker.domain.batches import Batch, Description
from worker.domain.errors import ExpungeError, Guard, RefusedError
from worker.domain.people import Act, Person
from worker.settings import Settings
from worker.store.tokens import Tokens
from worker.wiring import Store

_PATIENCE = 3.0  # seconds that a refusal waits to be noted
FIRST_TOKEN = "expunge token add NAME --role admin"  # noqa: S105 - a command


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks for something at the command line."""

    settings: Settings
    name: str | None
    """Of ``--as``."""
    act: Act
    batch_id: str | None = None
    simulate: bool = False
    """Rehearsals ask nobody for a name."""

    async def admitted(self, store: Store, batch: Batch | None = None) -> str | None:
        """The name of who it is; ``None`` while nobody has a token.

        Raises ``RefusedError`` when they do not show who they are, or may not do this to the batch.
        """
        if self.simulate:
            return None
        person = await self._identified(store.tokens)
        if person is None:
            return None
        person.check(self.act, batch)
        return person.name

    def signed(self, description: Description, name: str | None) -> Description:
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

    @contextmanager
    def audited(self) -> Iterator[None]:
        """Note in the audit trail what a guard refuses; without a store to note it in, it is refused all the same."""
        try:
            yield
        except RefusedError as refusal:
            with (
                suppress(ExpungeError, TimeoutError),
                session.running_redis(self.settings, simulate=self.simulate) as reachable,
            ):
                asyncio.run(self._note(reachable, refusal.guard))
            raise

    async def _note(self, reachable: Settings, guard: Guard) -> None:
        async with asyncio.timeout(_PATIENCE), session.opened_store(reachable) as store:
            person, claimed = await self._shown(store.tokens), None
            if person is None and any(token.name == self.name for token in await store.tokens.all()):
                claimed = self.name
            known = self.batch_id and is_batch_id(self.batch_id) and await store.batches.get(self.batch_id)
            await store.audit.refused(
                guard,
                self.act,
                actor=person.name if person else None,
                claimed=claimed,
                batch_id=known.id if known else None,  # what else was given may be a customer
            )

    async def _identified(self, tokens: Tokens) -> Person | None:
        if not await tokens.exist():
            if self.name is not None:
                raise RefusedError(f"nobody has a token yet; the first is made by: {FIRST_TOKEN}", Guard.IDENTITY)
            return None
        if self.name is None or self.settings.token is None:
            raise RefusedError(
                "say who you are: --as NAME, and your token in EXPUNGE_TOKEN; an admin makes it", Guard.IDENTITY
            )
        person = await self._shown(tokens)
        if person is None:
            raise RefusedError(
                f"the token in EXPUNGE_TOKEN is not one of '{self.name}', or was revoked", Guard.IDENTITY
            )
        return person

    async def _shown(self, tokens: Tokens) -> Person | None:
        """The person that ``--as`` names, if the token is theirs."""
        secret = self.settings.token
        token = await tokens.find(secret.get_secret_value()) if secret is not None else None
        return Person(token.name, token.role) if token is not None and token.name == self.name else None
