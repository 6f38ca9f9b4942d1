"""The audit trail in Redis: a stream, appended to in the same atomic step as the deed where there is one."""

from collections.abc import AsyncIterator

from redis.asyncio import Redis

from worker.domain.audit import Deed, Entry
from worker.domain.batches import Target
from worker.domain.errors import Guard
from worker.domain.people import Act
from worker.store import keys
from worker.store.scripts import Script

_AT_ONCE = 1_000


class Audit:
    """Reads the trail, and notes what was refused."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._note = Script(redis, "note")

    async def refused(
        self, guard: Guard, act: Act, target: Target, *, actor: str | None, claimed: str | None, batch_id: str | None
    ) -> None:
        """Note a refusal; ``claimed`` is the name that was given by somebody who could not show that it is theirs.

        The ``target`` is what was set for the command.
        """
        detail = ["act", act.value, "guard", guard.value]
        detail += ["environment", target.environment.value, "merchant", target.merchant]
        if claimed:
            detail += ["claimed", claimed]
        await self._note(keys=[], args=[actor or "", Deed.REFUSED, batch_id or "", *detail])

    async def entries(self, batch_id: str | None = None) -> AsyncIterator[Entry]:
        """The trail, oldest first; of one batch if asked."""
        after = "-"
        while found := await self._after(after):
            for at, fields in found:
                entry = _to_entry(at, fields)
                if batch_id is None or entry.batch_id == batch_id:
                    yield entry
            after = f"({found[-1][0].decode()}"

    async def since(self, position: str, count: int = _AT_ONCE) -> list[tuple[str, Entry]]:
        """The next entries behind a position, oldest first, each with its own; ``""`` is before all."""
        found = await self._after(f"({position}" if position else "-", count)
        return [(at.decode(), _to_entry(at, fields)) for at, fields in found]

    async def older(self, than: str, count: int) -> list[tuple[str, Entry]]:
        """The entries before a position, newest first, each with its own; ``""`` is behind all."""
        last = f"({than}" if than else "+"
        found: list[tuple[bytes, dict[bytes, bytes]]] = await self._redis.xrevrange(  # type: ignore[assignment]
            keys.AUDIT, max=last, count=count
        )
        return [(at.decode(), _to_entry(at, fields)) for at, fields in found]

    async def _after(self, position: str, count: int = _AT_ONCE) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return await self._redis.xrange(keys.AUDIT, min=position, count=count)  # type: ignore[return-value]


def _to_entry(at: bytes, raw: dict[bytes, bytes]) -> Entry:
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    return Entry(
        at=int(at.partition(b"-")[0]) / 1000,
        actor=fields.pop("actor") or None,
        deed=Deed(fields.pop("deed")),
        batch_id=fields.pop("batch") or None,
        detail=fields,
    )
