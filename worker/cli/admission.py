"""Who is at the command line, and whether what they ask for is theirs to ask (docs/safety.md)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from worker.cli import session
from worker.domain.batches import Batch
from worker.domain.errors import ExpungeError, Guard, RefusedError
from worker.domain.people import Act, Person
from worker.pipeline.admission import FIRST_TOKEN, note_refusal, person_of
from worker.settings import Settings
from worker.store.tokens import Tokens
from worker.wiring import Store

_PATIENCE = 3.0  # seconds that a refusal waits to be noted


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
        """The name of who it is; ``None`` while nobody has a token, nor signs in on the pages by other means.

        Raises ``RefusedError`` when they do not show who they are, or may not do this to the batch.
        """
        if self.simulate:
            return None
        person = await self._identified(store)
        if person is None:
            return None
        person.check(self.act, batch)
        return person.name

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
                asyncio.run(self._note(reachable, refusal))
            raise

    async def _note(self, reachable: Settings, refusal: RefusedError) -> None:
        async with asyncio.timeout(_PATIENCE), session.opened_store(reachable) as store:
            person, claimed = await self._shown(store.tokens), None
            if person is None and self.name and await store.tokens.had(self.name):
                claimed = self.name
            await note_refusal(
                store.audit,
                store.batches,
                refusal,
                self.act,
                self.settings.target,
                person=person,
                claimed=claimed,
                batch_id=self.batch_id,
            )

    async def _identified(self, store: Store) -> Person | None:
        if not await store.tokens.exist():
            if self.name is not None:
                raise RefusedError(f"nobody has a token yet; the first is made by: {FIRST_TOKEN}", Guard.IDENTITY)
            await self._check_nobody_has_a_name(store)
            return None
        if self.name is None or self.settings.token is None:
            raise RefusedError(
                "say who you are: --as NAME, and your token in EXPUNGE_TOKEN; an admin makes it", Guard.IDENTITY
            )
        person = await self._shown(store.tokens)
        if person is None:
            raise RefusedError(
                f"the token in EXPUNGE_TOKEN is not one of '{self.name}', or was revoked", Guard.IDENTITY
            )
        return person

    async def _check_nobody_has_a_name(self, store: Store) -> None:
        """Where people sign in by a provider, somebody without a name would pass by all that they may not do.

        Whoever sets it up makes the first token all the same.
        """
        by_provider = self.settings.sign_on is not None or await store.sessions.any_by_provider()
        if by_provider and self.act is not Act.TOKEN:
            raise RefusedError(
                "people sign in here by an identity provider, which the command line does not know; it takes a token, "
                f"and the first is made by: {FIRST_TOKEN}",
                Guard.IDENTITY,
            )

    async def _shown(self, tokens: Tokens) -> Person | None:
        """The person that ``--as`` names, if the token is theirs."""
        secret = self.settings.token
        person = await person_of(tokens, secret.get_secret_value()) if secret is not None else None
        return person if person is not None and person.name == self.name else None
